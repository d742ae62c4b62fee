package devhq

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// maxBody is the maximum size of a request's JSON body in bytes.
const maxBody = 1 << 20

// httpError is an error whose message and HTTP status are sent to the client.
type httpError struct {
	status  int
	message string
}

func (e *httpError) Error() string { return e.message }

func httpErrorf(status int, format string, a ...any) error {
	return &httpError{status, fmt.Sprintf(format, a...)}
}

// envelope is the JSON object that wraps the data of most responses, and the message of errors.
type envelope struct {
	Success bool   `json:"success"`
	Message string `json:"message,omitempty"`
	Data    any    `json:"data,omitempty"`
}

// endpoint handles a request and returns the data for the response. If it returns an error that is
// not an *httpError, the client gets status 500 without the text of the error.
type endpoint func(r *http.Request) (any, error)

// handler returns the handler for all HTTP requests.
func (h *HQ) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v3/eds/internal/enroll/{code}", h.enveloped(h.enroll))
	mux.Handle("POST /v3/eds/internal", h.enveloped(h.startSession))
	mux.Handle("POST /v3/eds/internal/{session}", h.enveloped(h.endSession))
	mux.Handle("POST /v3/eds/internal/{session}/log", h.enveloped(h.offerLog))
	mux.Handle("GET /v3/schema", h.bare(h.latestSchemas))
	mux.Handle("GET /v3/schema/{object}/{version}", h.bare(h.schemaVersion))
	mux.Handle("POST /v3/export/bulk", h.enveloped(h.startExport))
	mux.Handle("GET /v3/export/bulk/{job}", h.enveloped(h.exportStatus))
	mux.HandleFunc("PUT "+logPath+"{session}/{file}", h.storeLog)
	mux.HandleFunc("GET "+exportPath+"{job}/{file}", h.serveExport)
	mux.Handle("/", h.enveloped(func(r *http.Request) (any, error) {
		return nil, httpErrorf(http.StatusNotFound, "there is no %s %s", r.Method, r.URL.Path)
	}))
	return h.identified(h.faulty(mux))
}

// identified wraps a handler. It assigns an id to every request, and logs the request.
func (h *HQ) identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, began := rand.Text(), time.Now()
		w.Header().Set("X-Request-Id", id)
		defer func() {
			h.logger.Debug("request", "id", id, "method", r.Method, "path", r.URL.Path, "took", time.Since(began))
		}()
		next.ServeHTTP(w, r)
	})
}

// enveloped returns a handler that sends the endpoint's data in an envelope.
func (h *HQ) enveloped(e endpoint) http.Handler {
	return h.serve(e, func(data any) any { return envelope{Success: true, Data: data} })
}

// bare returns a handler that sends the endpoint's data without an envelope.
func (h *HQ) bare(e endpoint) http.Handler {
	return h.serve(e, func(data any) any { return data })
}

func (h *HQ) serve(e endpoint, wrap func(any) any) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		data, err := e(r)
		if err != nil {
			h.writeError(w, r, err)
			return
		}
		h.writeJSON(w, http.StatusOK, wrap(data))
	})
}

// writeError sends err as the response. It hides the text of an unexpected error from the client.
func (h *HQ) writeError(w http.ResponseWriter, r *http.Request, err error) {
	known, ok := errors.AsType[*httpError](err)
	if !ok {
		h.logger.Error("a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		known = &httpError{http.StatusInternalServerError, "HQ failed; its log has the error"}
	}
	h.writeJSON(w, known.status, envelope{Message: known.message})
}

func (h *HQ) writeJSON(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		h.logger.Error("encode a response", "error", err)
		status, text = http.StatusInternalServerError, []byte(`{"success":false,"message":"HQ could not encode its response"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text) // a failure means that the client is gone
}

// authorize checks the API key in the request, and returns the key's claims.
func (h *HQ) authorize(r *http.Request) (keyClaims, error) {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if key = strings.TrimSpace(key); key == "" {
		return keyClaims{}, httpErrorf(http.StatusUnauthorized, "the API key is missing: send Authorization: Bearer <key>")
	}
	if !strings.EqualFold(scheme, "Bearer") {
		return keyClaims{}, httpErrorf(http.StatusUnauthorized, "the Authorization header does not have the form Bearer <key>")
	}
	claims, err := h.keys.check(key, time.Now())
	if err != nil {
		return claims, httpErrorf(http.StatusUnauthorized, "%s", err)
	}
	return claims, nil
}

// decodeBody decodes a JSON body. An empty body counts as an empty object. Unknown members are
// ignored.
func decodeBody(r *http.Request, into any) error {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return httpErrorf(http.StatusBadRequest, "read the body: %s", err)
	}
	if len(strings.TrimSpace(string(text))) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return httpErrorf(http.StatusBadRequest, "the body is not valid JSON for this call")
	}
	return nil
}
