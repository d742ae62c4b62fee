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

// maxBody bounds the JSON body of a request, in bytes.
const maxBody = 1 << 20

// refusal is an error that the client is told, with its HTTP status.
type refusal struct {
	status  int
	message string
}

func (e *refusal) Error() string { return e.message }

func refuse(status int, format string, a ...any) error {
	return &refusal{status, fmt.Sprintf(format, a...)}
}

// envelope wraps the data of most answers.
type envelope struct {
	Success bool   `json:"success"`
	Message string `json:"message,omitempty"`
	Data    any    `json:"data,omitempty"`
}

// endpoint answers one call with data, or with an error: a refusal, or one that
// the client learns nothing about but that it is HQ's.
type endpoint func(r *http.Request) (any, error)

// handler returns the whole HTTP side of HQ.
func (h *HQ) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v3/eds/internal/enroll/{code}", h.wrapped(h.enroll))
	mux.Handle("POST /v3/eds/internal", h.wrapped(h.startSession))
	mux.Handle("POST /v3/eds/internal/{session}", h.wrapped(h.endSession))
	mux.Handle("POST /v3/eds/internal/{session}/log", h.wrapped(h.offerLog))
	mux.Handle("GET /v3/schema", h.bare(h.latestSchemas))
	mux.Handle("GET /v3/schema/{object}/{version}", h.bare(h.schemaVersion))
	mux.Handle("POST /v3/export/bulk", h.wrapped(h.startExport))
	mux.Handle("GET /v3/export/bulk/{job}", h.wrapped(h.exportStatus))
	mux.HandleFunc("PUT "+logPath+"{session}/{file}", h.storeLog)
	mux.HandleFunc("GET "+exportPath+"{job}/{file}", h.serveExport)
	mux.Handle("/", h.wrapped(func(r *http.Request) (any, error) {
		return nil, refuse(http.StatusNotFound, "there is no %s %s", r.Method, r.URL.Path)
	}))
	return h.identified(h.intercepted(mux))
}

// identified gives every request an id, and logs it.
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

// wrapped answers with the envelope around the endpoint's data.
func (h *HQ) wrapped(e endpoint) http.Handler {
	return h.answered(e, func(data any) any { return envelope{Success: true, Data: data} })
}

// bare answers with the endpoint's data alone.
func (h *HQ) bare(e endpoint) http.Handler {
	return h.answered(e, func(data any) any { return data })
}

func (h *HQ) answered(e endpoint, wrap func(any) any) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		data, err := e(r)
		if err != nil {
			h.refuse(w, r, err)
			return
		}
		h.answer(w, http.StatusOK, wrap(data))
	})
}

// refuse answers with an error.
func (h *HQ) refuse(w http.ResponseWriter, r *http.Request, err error) {
	known, ok := errors.AsType[*refusal](err)
	if !ok {
		h.logger.Error("a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		known = &refusal{http.StatusInternalServerError, "HQ could not answer; its log says why"}
	}
	h.answer(w, known.status, envelope{Message: known.message})
}

func (h *HQ) answer(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		h.logger.Error("an answer could not be encoded", "error", err)
		status, text = http.StatusInternalServerError, []byte(`{"success":false,"message":"HQ could not encode its answer"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that has gone needs no answer
}

// authorize returns the claims of the request's API key.
func (h *HQ) authorize(r *http.Request) (keyClaims, error) {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if key = strings.TrimSpace(key); key == "" {
		return keyClaims{}, refuse(http.StatusUnauthorized, "an API key is needed: send Authorization: Bearer <key>")
	}
	if !strings.EqualFold(scheme, "Bearer") {
		return keyClaims{}, refuse(http.StatusUnauthorized, "the authorization is not of the form Bearer <key>")
	}
	claims, err := h.keys.check(key, time.Now())
	if err != nil {
		return claims, refuse(http.StatusUnauthorized, "%s", err)
	}
	return claims, nil
}

// decodeBody decodes a JSON body. An empty one is an empty object; members that
// nobody asked for are ignored.
func decodeBody(r *http.Request, into any) error {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return refuse(http.StatusBadRequest, "read the body: %s", err)
	}
	if len(strings.TrimSpace(string(text))) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return refuse(http.StatusBadRequest, "the body is not the JSON that this call takes")
	}
	return nil
}
