package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/shopmonkeyus/eds/internal/build"
)

// HTTPOptions configure an HTTPServer.
type HTTPOptions struct {
	Host    string // listen address; "" means all interfaces
	Port    int    // 0 means any free port
	Health  *Health
	Metrics prometheus.Gatherer
	Build   build.Info
	Logger  *slog.Logger
}

// HTTPServer serves health and metrics over HTTP. Clients cannot change anything.
type HTTPServer struct {
	listener net.Listener
	server   http.Server
}

// Listen opens the port. It fails immediately if the port is already in use. The port stays open
// until Run returns or Close is called.
func Listen(ctx context.Context, o HTTPOptions) (*HTTPServer, error) {
	var config net.ListenConfig
	address := net.JoinHostPort(o.Host, strconv.Itoa(o.Port))
	listener, err := config.Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on port %d for health and metrics: another program uses it; "+
			"give a free port with --port, or 0 for any", o.Port)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s for health and metrics: %w", address, err)
	}
	return &HTTPServer{
		listener: listener,
		server: http.Server{
			Handler:           newHandler(o),
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      30 * time.Second,
			IdleTimeout:       time.Minute,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		},
	}, nil
}

// Addr returns the address of the listener.
func (s *HTTPServer) Addr() *net.TCPAddr { return s.listener.Addr().(*net.TCPAddr) }

// shutdownTimeout is the maximum time for requests to finish after Run's context is done.
const shutdownTimeout = 3 * time.Second

// Run serves requests until ctx is done. It then waits up to shutdownTimeout for open requests,
// and closes the port.
func (s *HTTPServer) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.server.Serve(s.listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve health and metrics: %w", err)
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := s.server.Shutdown(deadline)
	if err != nil {
		err = s.server.Close() // ends requests that exceed the deadline
	}
	<-done
	return err
}

// Close closes the port of a server on which Run is not called.
func (s *HTTPServer) Close() error { return s.listener.Close() }

func newHandler(o HTTPOptions) http.Handler {
	started := time.Now()
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		report := o.Health.Report()
		code := http.StatusOK
		if report.Status == Unhealthy || report.Status == ShuttingDown {
			code = http.StatusServiceUnavailable
		}
		writeReport(w, code, report, o.Build, started)
	})
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		report := o.Health.Report()
		code := http.StatusOK
		if report.Status != OK {
			code = http.StatusServiceUnavailable
		}
		writeReport(w, code, report, o.Build, started)
	})
	mux.Handle("/metrics", promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 8,
		Timeout:             20 * time.Second,
	}))
	return readOnly(mux)
}

// readOnly refuses all methods except GET and HEAD.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "read-only: use GET or HEAD", http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func writeReport(w http.ResponseWriter, code int, report Report, b build.Info, started time.Time) {
	body, err := json.MarshalIndent(struct {
		Report
		Version string `json:"version"`
		Uptime  int64  `json:"uptimeSeconds"`
	}{report, b.Version, int64(time.Since(started).Seconds())}, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// A client that has disconnected needs no response.
	_, _ = w.Write(append(body, '\n'))
}
