package webhook

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

func TestSecrets_AreReadForEachBatch(t *testing.T) {
	var token atomic.Value
	token.Store("first")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token.Load().(string) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(server.Close)
	files := sinktest.NewRotation(t)
	files.Put("token", []byte("first\n"))
	s, err := files.Open(Driver(), server.URL+"/in?secret=s&secret-header=Authorization:Bearer%20"+files.Placeholder("token"), sink.Env{})
	if err != nil {
		t.Fatal(err)
	}
	files.Works("the first token", s.Apply(t.Context(), run(t, 1, 3)))
	token.Store("second")
	files.Waits("a token that is no longer valid", s.Apply(t.Context(), run(t, 4, 6)), "the endpoint returned 401 Unauthorized", "first",
		"second")
	files.Put("token", []byte("second\n"))
	files.Works("the second token", s.Apply(t.Context(), run(t, 4, 6)))
}
