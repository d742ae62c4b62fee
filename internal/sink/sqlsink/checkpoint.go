package sqlsink

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// CheckpointTable returns the table that checkpoints are kept in: one row for
// each stream, consumer and filter, in the columns of that name, with
// Position.Sequence in "position" and Position.Stored in "stored".
func CheckpointTable() *schema.Table {
	return ownTable("_eds_checkpoint", []string{"stream", "consumer", "filter"}, "position", "stored")
}

// ownTable returns a table of the engine's own: key columns of text, others of integers.
func ownTable(name string, key []string, integers ...string) *schema.Table {
	var columns []schema.Column
	for _, k := range key {
		columns = append(columns, schema.Column{Name: k, Type: schema.String, Required: true})
	}
	for _, c := range integers {
		columns = append(columns, schema.Column{Name: c, Type: schema.Integer, Required: true})
	}
	t, err := schema.New(name, "", key, columns)
	if err != nil {
		panic(err) // the arguments are constants
	}
	return t
}

// own reports whether t is one of the engine's tables, which have no version.
func own(t *schema.Table) bool {
	return t.Version == "" && (t.Name == "_eds_checkpoint" || t.Name == "_eds_load")
}

// maxFilter is how long a filter can be and still stand in a key of any database.
const maxFilter = 200

// checkpointAt names p as this sink's checkpoint. A long filter stands as its hash.
func (s *Sink) checkpointAt(p cdc.Position) Checkpoint {
	filter := s.env.Filter
	if len(filter) > maxFilter {
		sum := sha256.Sum256([]byte(filter))
		filter = "sha256:" + hex.EncodeToString(sum[:])
	}
	return Checkpoint{Stream: s.env.Stream, Consumer: s.env.Consumer, Filter: filter, Position: p}
}

// Checkpoint returns the stored position.
func (s *Sink) Checkpoint(ctx context.Context) (cdc.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = false
	err := s.attempt(ctx, "read the checkpoint", func(conn Conn) error {
		_, err := s.checkpoints(ctx, conn)
		return err
	})
	if err != nil || !s.known {
		return cdc.Position{}, err
	}
	return s.position, nil
}

// ResetCheckpoint forgets the stored position.
func (s *Sink) ResetCheckpoint(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attempt(ctx, "reset the checkpoint", func(conn Conn) error {
		l, err := s.checkpoints(ctx, conn)
		if l == nil || err != nil {
			return err
		}
		at := s.checkpointAt(cdc.Position{})
		row, err := recordRow(l.Table, []string{at.Stream, at.Consumer, at.Filter})
		if err != nil {
			return err
		}
		s.known = false
		return s.transact(ctx, conn, func(tx Tx) error {
			return tx.Write(ctx, &Write{Layout: l, Deletes: keysOf(l.Table, row)})
		})
	})
}

// checkpoints returns the layout of the checkpoint table, made where it does not
// exist, with the stored position known; nil where none is to be kept.
func (s *Sink) checkpoints(ctx context.Context, conn Conn) (*Layout, error) {
	if s.env.Consumer == "" {
		return nil, nil
	}
	l, err := s.layoutOfOwn(ctx, conn, "_eds_checkpoint", CheckpointTable)
	if err != nil || s.known {
		return l, err
	}
	var found cdc.Position
	want := s.checkpointAt(cdc.Position{})
	for row, err := range conn.Read(ctx, l) {
		if err != nil {
			return nil, fmt.Errorf("read the checkpoint: %w", err)
		}
		names := Checkpoint{Stream: columnText(l.Table, row, "stream"), Consumer: columnText(l.Table, row, "consumer"), Filter: columnText(l.Table, row, "filter")}
		if names != want {
			continue
		}
		if found, err = storedPosition(l.Table, row); err != nil {
			return nil, err
		}
	}
	s.position, s.known = found, true
	return l, nil
}

func storedPosition(t *schema.Table, row rowReader) (cdc.Position, error) {
	sequence, err := strconv.ParseUint(columnText(t, row, "position"), 10, 64)
	if err != nil {
		return cdc.Position{}, fault.Mark(fault.Fatal, fmt.Errorf("the position in table %q is not a number", t.Name))
	}
	stored, err := strconv.ParseInt(columnText(t, row, "stored"), 10, 64)
	if err != nil {
		return cdc.Position{}, fault.Mark(fault.Fatal, fmt.Errorf("the time in table %q is not a number", t.Name))
	}
	return cdc.Position{Sequence: sequence, Stored: stored}, nil
}

// moved decides what it means that the stored checkpoint was not the one that
// the transaction began from. Where it is the one that the transaction would
// have stored, an earlier attempt, whose answer was lost, was durable after all.
// Anything else is the work of another server.
func (s *Sink) moved(ctx context.Context, conn Conn, next cdc.Position) error {
	began := s.position
	s.known = false
	if _, err := s.checkpoints(ctx, conn); err != nil {
		return err
	}
	if s.position == next {
		return nil
	}
	return fault.Mark(fault.Fatal, fmt.Errorf("%w: from %d to %d; another eds server writes here as consumer %q of stream %q: stop one of them, or give each its own server id or consumer suffix",
		ErrMoved, began.Sequence, s.position.Sequence, s.env.Consumer, s.env.Stream))
}

// rowReader is a row of which values are read by slot.
type rowReader interface{ Value(slot int) []byte }

// columnText returns the text of a named column of a row of one of the engine's tables.
func columnText(t *schema.Table, row rowReader, name string) string {
	return string(rawjson.Text(row.Value(t.Slot([]byte(name)))))
}
