package server

import (
	"context"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// OtherDestinationError means that a request names a destination other than the server's.
type OtherDestinationError struct {
	Destination string // URL of the server's destination, with secrets masked
}

func (e *OtherDestinationError) Error() string {
	return fmt.Sprintf("the server with this data directory writes to %s, which is not the destination of --url; "+
		"leave --url out to import there, or name another data directory with --data-dir", e.Destination)
}

// RequestImport requests an import for the operator, with a unique id. The parameter identity
// is the identity of the destination that the operator expects, or "" for any. If the server
// has another destination, the error is an *OtherDestinationError. If an import with this id
// exists, RequestImport does nothing.
func (s *Server) RequestImport(id, identity string, o snapshot.Options) error {
	if err := s.checkDestination(identity); err != nil {
		return err
	}
	_, err := s.reconciler.RequestImport(reconciler.ImportRequest{ID: id, Options: o})
	return err
}

// WatchImport calls the function observe with the progress of an import until the import ends, and
// returns its outcome. If ctx is done, the import continues.
func (s *Server) WatchImport(
	ctx context.Context, id string, observe func(snapshot.TableProgress, snapshot.Totals),
) (snapshot.Report, error) {
	return s.reconciler.WatchImport(ctx, id, observe)
}

// CancelImport cancels an import. The tables of the import keep their rows.
func (s *Server) CancelImport(id string) error { return s.reconciler.CancelImport(id) }

// AcceptGap accepts that tables are incomplete because of the gap with the given id. The
// parameter table is the name of one table, or "" for all tables of the gap. AcceptGap returns
// the names of the accepted tables.
func (s *Server) AcceptGap(id, table string) ([]string, error) {
	return s.reconciler.AcceptGap(id, table)
}

// Verification names tables that were compared and found equal.
type Verification = reconciler.Verification

// Verified ends the warnings about tables that were found equal. If the parameter identity is not
// the identity of the server's destination, the error is an *OtherDestinationError.
func (s *Server) Verified(identity string, v Verification) error {
	if err := s.checkDestination(identity); err != nil {
		return err
	}
	s.reconciler.Verified(v)
	return nil
}

// checkDestination returns an *OtherDestinationError if the server has a destination and the
// parameter identity is neither "" nor that destination's identity.
func (s *Server) checkDestination(identity string) error {
	if d := s.reconciler.Destination(); d != nil && identity != "" && identity != d.Identity {
		return &OtherDestinationError{d.Masked}
	}
	return nil
}
