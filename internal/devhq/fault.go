package devhq

import (
	"net/http"
	"strconv"
	"time"
)

// Fault disturbs the answer to a request.
type Fault func(next http.Handler) http.Handler

// Disturb asks choose, for every HTTP request from now on, for a fault; nil
// means none. A nil choose ends all faults. Choose is called concurrently.
func (h *HQ) Disturb(choose func(r *http.Request) Fault) {
	if choose == nil {
		h.disturb.Store(nil)
		return
	}
	h.disturb.Store(&choose)
}

func (h *HQ) intercepted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if choose := h.disturb.Load(); choose != nil {
			if fault := (*choose)(r); fault != nil {
				fault(next).ServeHTTP(w, r)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// Refuse answers with an error of the given status and, where retryAfter is
// more than 0, with how many seconds to wait.
func Refuse(status int, retryAfter time.Duration) Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if retryAfter > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(int((retryAfter+time.Second-1)/time.Second)))
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"success":false,"message":"disturbed"}`))
		})
	}
}

// Cut breaks the connection after n bytes of the answer's body.
func Cut(n int) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(&cutWriter{ResponseWriter: w, left: n}, r)
		})
	}
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if len(p) <= w.left {
		w.left -= len(p)
		return w.ResponseWriter.Write(p)
	}
	_, _ = w.ResponseWriter.Write(p[:w.left])
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}
