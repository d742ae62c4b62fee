package control

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// stream sends the progress of an import, one JSON object per line, until the import ends or
// the client disconnects.
func (s endpoints) stream(w http.ResponseWriter, r *http.Request, id string) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	w.Header().Set("Content-Type", "application/x-ndjson")
	updates := updateWriter{http.NewResponseController(w), json.NewEncoder(w)}
	if updates.write(importUpdate{ID: id}) != nil {
		return
	}
	report, err := s.WatchImport(ctx, id, func(p snapshot.TableProgress, t snapshot.Totals) {
		if updates.write(importUpdate{Progress: newProgressUpdate(p), Totals: &t}) != nil {
			cancel() // the client has disconnected
		}
	})
	if ctx.Err() == nil {
		// A client that has disconnected needs no response.
		_ = updates.write(importUpdate{Report: newImportReport(report), Error: newError(err)})
	}
}

// updateWriter sends updates to a client. A write fails if the client has disconnected or does
// not read.
type updateWriter struct {
	response *http.ResponseController
	encoder  *json.Encoder
}

func (w updateWriter) write(u importUpdate) error {
	if err := w.response.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if err := w.encoder.Encode(u); err != nil {
		return err
	}
	return w.response.Flush()
}
