package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/klauspost/compress/gzip"

	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// Crash is the unexpected end of an earlier worker.
type Crash struct {
	Session string // id of the session that the worker left open, or ""
	Kind    string // such as "panic"
	Stderr  string // the end of the worker's standard error
	Forget  func() error
}

// crashReporter reports crashes to HQ. Calls of report must not overlap.
type crashReporter struct {
	hq      API
	pending []Crash
	logger  *slog.Logger
}

// report reports the pending crashes. If a crash left a session open, report ends that session,
// because HQ would not start another session for this server. If a crash left no session open,
// report uploads it as a log of the given session. If the session is "", such a crash stays
// pending. A crash also stays pending if its report fails.
func (r *crashReporter) report(ctx context.Context, session string) {
	var later []Crash
	for i, crash := range r.pending {
		reported, err := r.reportCrash(ctx, &crash, session)
		if !reported {
			later = append(later, crash)
		}
		if err != nil {
			r.logger.Warn("a crash could not be reported to hq; eds tries again later", "crash", crash.Kind, "error", err)
			later = append(later, r.pending[i+1:]...)
			break
		}
		if reported {
			r.logger.Info("a crash was reported to hq", "crash", crash.Kind)
		}
	}
	r.pending = later
}

func (r *crashReporter) reportCrash(ctx context.Context, crash *Crash, session string) (reported bool, err error) {
	url := ""
	if crash.Session != "" {
		end, err := r.hq.EndSession(ctx, crash.Session, true)
		if err != nil && !hq.NotFound(err) {
			return false, err
		}
		url = end.ErrorURL
		if err != nil {
			crash.Session = "" // HQ no longer knows the session
		}
	}
	if crash.Session == "" {
		if session == "" {
			return false, nil
		}
		if url, err = r.hq.LogURL(ctx, session); err != nil {
			return false, err
		}
	}
	if url != "" && crash.Stderr != "" {
		if err := r.upload(ctx, url, crash.Stderr); err != nil {
			return false, err
		}
	}
	return true, crash.Forget()
}

func (r *crashReporter) upload(ctx context.Context, url, text string) error {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err := w.Write([]byte(telemetry.MaskText(text)))
	if err = errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("compress a crash report: %w", err)
	}
	_, err = r.hq.Upload(ctx, url, bytes.NewReader(zipped.Bytes()))
	return err
}
