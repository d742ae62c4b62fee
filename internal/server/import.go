package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// importOrder is an import that HQ has asked for.
type importOrder struct {
	backfill bool // all rows; else only tables are made
}

// carryOut does the import that is wished for, and tells HQ how it ended. It
// returns the gap in the stream, which an import closes.
func (sh *shift) carryOut(wanted wish, gap error) error {
	s := sh.s
	s.Health.Ready()
	err := sh.imports(sh.term, wanted)
	s.setProgress("")
	s.wishes.done(err == nil)
	if err != nil {
		s.Logger.Error("the import that hq asked for failed; what the tables held stays", "error", err)
	} else {
		gap = nil
		s.Health.Set("stream", nil)
		s.Logger.Info("the import that hq asked for is done")
	}
	outcome := sh.line.Outcome("", err)
	sh.told(sh.line.Answer("import", outcome))
	return gap
}

// imports copies a snapshot into the place. The stream stands still meanwhile.
func (sh *shift) imports(ctx context.Context, wanted wish) error {
	s := sh.s
	if wanted.place == nil {
		return errNotConfigured
	}
	s.closeDestination()
	destination, err := wanted.place.driver.Open(ctx, wanted.place.target, s.env(wanted.place))
	if err != nil {
		return fmt.Errorf("open the destination %s: %w", wanted.place.masked, err)
	}
	defer func() {
		parting, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		if err := destination.Close(parting); err != nil {
			s.Logger.Warn("the destination did not close cleanly", "error", err)
		}
	}()
	s.Logger.Info("importing, as hq asked for", "backfill", wanted.order.backfill, "destination", wanted.place.masked)
	report, err := snapshot.Run(ctx, snapshot.Config{
		HQ: s.client, Schemas: s.tables, Sink: destination, State: s.State, Destination: wanted.place.masked,
		Logger: s.Logger, Present: s.client.Present, Observe: s.observe(),
		Options: snapshot.Options{CompanyIDs: s.Options.CompanyIDs, SchemaOnly: !wanted.order.backfill},
	})
	if failed := new(snapshot.TablesError); errors.As(err, &failed) {
		return failed
	}
	if err != nil {
		return err
	}
	s.Logger.Info("imported", "tables", len(report.Tables), "rows", report.Rows, "took", report.Elapsed.Round(time.Millisecond))
	return nil
}

// observe returns an observer that keeps the progress for heartbeats and says it
// in the log now and then.
func (s *Server) observe() snapshot.Observer {
	var told time.Time
	return func(_ snapshot.Progress, t snapshot.Totals) {
		s.setProgress(fmt.Sprintf("%d of %d tables, %d rows", t.Done, t.Tables, t.Rows))
		if now := time.Now(); now.Sub(told) >= progressEvery {
			told = now
			s.Logger.Info("importing", "tables", t.Done, "of", t.Tables, "failed", t.Failed, "rows", t.Rows, "bytes", t.Bytes, "ofBytes", t.TotalBytes)
		}
	}
}

// progressEvery is how often the log tells of an import's progress.
const progressEvery = 5 * time.Second

func (s *Server) setProgress(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress = text
}
