package control

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// stream answers with the progress of an import, one JSON object per line, until it ends
// or the client goes away.
func (s service) stream(w http.ResponseWriter, r *http.Request, id string) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines := lineWriter{http.NewResponseController(w), json.NewEncoder(w)}
	if lines.write(line{ID: id}) != nil {
		return
	}
	report, err := s.WatchImport(ctx, id, func(p snapshot.Progress, t snapshot.Totals) {
		if lines.write(line{Progress: newProgress(p), Totals: &t}) != nil {
			cancel() // the client has gone away
		}
	})
	if ctx.Err() == nil {
		_ = lines.write(line{Report: newReport(report), Error: newError(err)}) // a client that has gone away needs no answer
	}
}

// lineWriter writes lines to a client, for as long as that reads them.
type lineWriter struct {
	response *http.ResponseController
	encoder  *json.Encoder
}

func (w lineWriter) write(l line) error {
	if err := w.response.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	if err := w.encoder.Encode(l); err != nil {
		return err
	}
	return w.response.Flush()
}
