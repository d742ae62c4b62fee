package devhq

import (
	"net/http"
	"strconv"
	"time"
)

// Fault wraps an HTTP handler to disturb its responses.
type Fault func(next http.Handler) http.Handler

// Disturb installs the function choose, which is called for each HTTP request. If choose returns a
// fault, HQ applies the fault to that request. Disturb(nil) ends all faults. Calls of choose can be
// concurrent.
func (h *HQ) Disturb(choose func(r *http.Request) Fault) {
	if choose == nil {
		h.chooseFault.Store(nil)
		return
	}
	h.chooseFault.Store(&choose)
}

// faulty returns a handler that passes requests to next. If the function installed by Disturb
// returns a fault for a request, the handler applies the fault to that request.
func (h *HQ) faulty(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if choose := h.chooseFault.Load(); choose != nil {
			if fault := (*choose)(r); fault != nil {
				fault(next).ServeHTTP(w, r)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// Refuse returns a fault that responds with the given status. If retryAfter is positive, the
// response has a Retry-After header, rounded up to seconds.
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

// Cut returns a fault that closes the connection after n bytes of the response body.
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
