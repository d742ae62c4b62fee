package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

const (
	// maxBody is the maximum size of a request body in bytes. It suffices for thousands of ids.
	maxBody = 1 << 20
	// headerTimeout is the maximum time for the header of a request to arrive.
	headerTimeout = 5 * time.Second
	// writeTimeout is the maximum time for the client to read one line of a stream.
	writeTimeout = 10 * time.Second
	// shutdownTimeout is the maximum time for requests to finish when the server ends.
	shutdownTimeout = 3 * time.Second
)

// Serve handles requests of the operator until ctx is done, and then closes the listener.
// Imports continue even if their watchers are disconnected.
func Serve(ctx context.Context, listener net.Listener, h Handler) error {
	web := http.Server{
		Handler: routes(h), BaseContext: func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: headerTimeout, ReadTimeout: 2 * headerTimeout, MaxHeaderBytes: 16 << 10,
	}
	done := make(chan error, 1)
	go func() { done <- web.Serve(listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the control socket: %w", err)
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := web.Shutdown(deadline)
	if errors.Is(err, context.DeadlineExceeded) {
		err = web.Close()
	}
	<-done
	return err
}

func routes(h Handler) http.Handler {
	s := endpoints{h}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.status) // for clients of the previous release
	mux.HandleFunc("GET /status", s.status)
	mux.HandleFunc("POST /import", s.beginImport)
	mux.HandleFunc("GET /import", s.watchImport)
	mux.HandleFunc("DELETE /import", s.cancelImport)
	mux.HandleFunc("POST /accept-gap", s.acceptGap)
	mux.HandleFunc("POST /verified", s.verified)
	return mux
}

type endpoints struct{ Handler }

func (s endpoints) status(w http.ResponseWriter, _ *http.Request) { respond(w, s.Report()) }

func (s endpoints) beginImport(w http.ResponseWriter, r *http.Request) {
	var q ImportRequest
	if !decodeRequest(w, r, &q) {
		return
	}
	if q.ID == "" {
		q.ID = uuid.NewString()
	}
	id, err := uuid.Parse(q.ID)
	if err == nil {
		err = s.RequestImport(id.String(), q.Destination, q.Options.snapshot())
	}
	if err != nil {
		refuse(w, err)
		return
	}
	s.stream(w, r, id.String())
}

func (s endpoints) watchImport(w http.ResponseWriter, r *http.Request) {
	s.stream(w, r, r.FormValue("id"))
}

func (s endpoints) cancelImport(w http.ResponseWriter, r *http.Request) {
	if err := s.CancelImport(r.FormValue("id")); err != nil {
		refuse(w, err)
		return
	}
	respond(w, struct{}{})
}

func (s endpoints) acceptGap(w http.ResponseWriter, r *http.Request) {
	var q gapRequest
	if !decodeRequest(w, r, &q) {
		return
	}
	tables, err := s.AcceptGap(q.ID, q.Table)
	if err != nil {
		refuse(w, err)
		return
	}
	respond(w, gapResponse{tables})
}

func (s endpoints) verified(w http.ResponseWriter, r *http.Request) {
	var q verifiedRequest
	if !decodeRequest(w, r, &q) {
		return
	}
	if err := s.Verified(q.Destination, q.Verification); err != nil {
		refuse(w, err)
		return
	}
	respond(w, struct{}{})
}

// decodeRequest decodes the body of a request and reports whether that succeeded. After a
// failure it has already sent the error response.
func decodeRequest(w http.ResponseWriter, r *http.Request, into any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(into)
	if err != nil {
		writeJSON(w, http.StatusBadRequest, &Error{"decode the request: " + maskedText(err), exitError})
	}
	return err == nil
}

func respond(w http.ResponseWriter, value any) { writeJSON(w, http.StatusOK, value) }

func refuse(w http.ResponseWriter, err error) { writeJSON(w, http.StatusConflict, newError(err)) }

func writeJSON(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(value) // a client that has disconnected needs no response
}

// Exit codes in Error.
const (
	exitError = 1
	exitUsage = 3
)

// newError returns err as the response to a failed request, or nil if err is nil.
func newError(err error) *Error {
	if err == nil {
		return nil
	}
	e := &Error{maskedText(err), exitError}
	if errors.As(err, new(*snapshot.ProbeError)) || errors.As(err, new(*server.OtherDestinationError)) {
		e.ExitCode = exitUsage
	}
	return e
}
