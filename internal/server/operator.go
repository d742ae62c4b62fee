package server

import (
	"context"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// OtherDestinationError says that a request is for another destination than the server's.
type OtherDestinationError struct {
	Destination string // the server's, masked
}

func (e *OtherDestinationError) Error() string {
	return fmt.Sprintf("the server with this data directory writes to %s, which is not the destination of --url; "+
		"leave --url out to import there, or name another data directory with --data-dir", e.Destination)
}

// RequestImport requests an import for the operator, with a unique id, into the destination
// with the given identity; "" is the server's. Another destination is an
// *OtherDestinationError. If an import with this id exists, RequestImport does nothing.
func (s *Server) RequestImport(id, identity string, o snapshot.Options) error {
	if err := s.checkDestination(identity); err != nil {
		return err
	}
	_, err := s.reconciler.RequestImport(reconciler.ImportRequest{ID: id, Options: o})
	return err
}

// WatchImport calls observe with the progress of an import until it ends, and returns its
// outcome. If ctx ends, the import continues.
func (s *Server) WatchImport(ctx context.Context, id string, observe func(snapshot.Progress, snapshot.Totals)) (snapshot.Report, error) {
	return s.reconciler.WatchImport(ctx, id, observe)
}

// CancelImport ends an import; its tables keep their rows.
func (s *Server) CancelImport(id string) error { return s.reconciler.CancelImport(id) }

// AcceptGap accepts that tables are incomplete: one table of a gap or, if table is "", all
// of them. It returns their names.
func (s *Server) AcceptGap(id, table string) ([]string, error) {
	return s.reconciler.AcceptGap(id, table)
}

// Verification names the tables that were found equal.
type Verification = reconciler.Verification

// Verified ends warnings about tables of the destination with the given identity.
func (s *Server) Verified(identity string, v Verification) error {
	if err := s.checkDestination(identity); err != nil {
		return err
	}
	s.reconciler.Verified(v)
	return nil
}

// checkDestination returns an *OtherDestinationError unless identity is "" or that of the
// server's destination.
func (s *Server) checkDestination(identity string) error {
	if d := s.reconciler.Destination(); d != nil && identity != "" && identity != d.Identity {
		return &OtherDestinationError{d.Masked}
	}
	return nil
}
