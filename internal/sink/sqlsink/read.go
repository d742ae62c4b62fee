package sqlsink

import (
	"context"
	"iter"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Probe checks, over a separate session, that eds has the privileges that it needs.
func (s *Sink) Probe(ctx context.Context) error {
	return s.withConn(ctx, "create and write a table", func(conn Conn) error { return conn.CanWrite(ctx) })
}

// Read yields the rows of a table, over a separate session.
func (s *Sink) Read(ctx context.Context, t *schema.Table) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		err := s.withConn(ctx, "read "+t.Name, func(conn Conn) error {
			l, err := s.readLayout(ctx, conn, t)
			if l == nil || err != nil {
				return err
			}
			for row, err := range conn.Read(ctx, l) {
				if err != nil {
					return err
				}
				if !yield(row, nil) {
					yield = nil
					return nil
				}
			}
			return nil
		})
		if err != nil && yield != nil {
			yield(nil, err)
		}
	}
}

// readLayout reads the current description of t's real table, and maps t onto it. It returns nil
// if the destination has no such table.
func (s *Sink) readLayout(ctx context.Context, conn Conn, t *schema.Table) (*Layout, error) {
	found, err := conn.Tables(ctx, []string{s.dialect.Name(t.Name)})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return s.newLayout(t, found[0])
}

// withConn runs the callback do on a new session, and closes the session afterwards.
func (s *Sink) withConn(ctx context.Context, what string, do func(conn Conn) error) error {
	conn, err := s.connect(ctx)
	if err == nil {
		defer s.abandon(ctx, conn)
		err = do(conn)
	}
	if err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fail(what, err)
}
