package sqlsink

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// CheckpointTable returns the table of checkpoints, which has one row per stream, consumer and
// filter. Its column "position" stores Position.Sequence, and "stored" stores Position.Stored.
// The remaining columns are nullable, because earlier versions do not write them.
//
// A batch moves a checkpoint only if "epoch" and "generation" have the values that the batch's
// writer knows. A later writer raises the epoch, and an import raises the generation. "followed" is
// the generation of the latest snapshot that the writer has read from. "seen" changes while the
// writer is alive, and is 0 after the writer has stopped. "subjects" is the complete filter,
// because the key may contain only its hash. "added" lists the subjects that were added after the
// generation "added_at".
func CheckpointTable() *schema.Table {
	return ownTable(checkpointTable, []string{"stream", "consumer", "filter"},
		integer("position"), integer("stored"), optional("epoch"), optional("generation"), optional("followed"), optional("seen"),
		text("writer"), text("subjects"), text("added"), optional("added_at"))
}

// checkpoint is a row of the checkpoint table.
type checkpoint struct {
	stream, consumer, filter          string
	position                          cdc.Position // tables that are not behind have every change up to this position
	low                               cdc.Position // the stored position: all tables have every change up to it
	epoch, generation, followed, seen int64
	writer                            sink.Writer
	subjects, added                   []string
	addedAt                           int64
}

// known reports whether the complete filter of the row is known, and not only its hash.
func (c *checkpoint) known() bool { return c.subjects != nil }

// asStored returns the checkpoint with the values that the database stores.
func (c *checkpoint) asStored() Checkpoint {
	return Checkpoint{
		Stream: c.stream, Consumer: c.consumer, Filter: c.filter, Position: c.low,
		Epoch: c.epoch, Generation: c.generation, Seen: c.seen,
	}
}

// checkpointKey is the primary key of a row of the checkpoint table.
type checkpointKey struct{ stream, consumer, filter string }

func (c *checkpoint) key() checkpointKey { return checkpointKey{c.stream, c.consumer, c.filter} }

// maxFilter is the maximum length of a text in a key, in bytes. Every database accepts keys of
// this length.
const maxFilter = 200

// key returns the key of this sink's checkpoint. If the filter is too long for a key, the key
// contains a hash of the filter.
func (s *Sink) key() checkpointKey {
	return checkpointKey{s.env.Stream, s.env.Consumer, keyText(s.env.Filter)}
}

// keyText returns the given text, or a hash of the text if the text is too long for a key.
func keyText(text string) string {
	if len(text) <= maxFilter {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// at returns this sink's checkpoint with position p, the epoch and generation of this process,
// and a new sign of life.
func (s *Sink) at(p cdc.Position) Checkpoint {
	n := s.key()
	c := Checkpoint{Stream: n.stream, Consumer: n.consumer, Filter: n.filter, Position: p, Epoch: s.epoch, Generation: s.generation}
	if s.epoch > 0 {
		c.Seen = s.signOfLife()
	}
	return c
}

// signOfLife returns the Unix time in ms, increased if necessary so that each call returns a
// higher value.
func (s *Sink) signOfLife() int64 {
	s.seen = max(s.seen+1, time.Now().UnixMilli())
	return s.seen
}

// Checkpoint returns the stored position.
func (s *Sink) Checkpoint(ctx context.Context) (cdc.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known, s.held = false, false
	err := s.attempt(ctx, "read the checkpoint", func(conn Conn) error {
		_, err := s.checkpoints(ctx, conn)
		return err
	})
	if err != nil || !s.known {
		return cdc.Position{}, err
	}
	return fromStored(s.position), nil
}

// OtherFilters returns the filters of the stored checkpoints, except the sink's own filter.
func (s *Sink) OtherFilters(ctx context.Context) ([]string, error) {
	own := keyText(s.env.Filter)
	var filters []string
	err := s.withConn(ctx, "read the checkpoints", func(conn Conn) error {
		l, err := s.readLayout(ctx, conn, s.ownTables[checkpointTable])
		if l == nil || err != nil {
			return err
		}
		rows, err := readCheckpoints(ctx, conn, l)
		for _, c := range rows {
			filter := c.filter
			if c.known() {
				filter = strings.Join(c.subjects, " ")
			}
			if c.filter != own && !slices.Contains(filters, filter) {
				filters = append(filters, filter)
			}
		}
		return err
	})
	return filters, err
}

// ResetCheckpoint deletes the stored position.
func (s *Sink) ResetCheckpoint(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attempt(ctx, "reset the checkpoint", func(conn Conn) error {
		l, err := s.checkpoints(ctx, conn)
		if l == nil || err != nil {
			return err
		}
		n := s.key()
		row, err := recordRow(l.Table, recordValues{"stream": n.stream, "consumer": n.consumer, "filter": n.filter})
		if err != nil {
			return err
		}
		s.known, s.held = false, false
		return s.transact(ctx, conn, func(tx Tx) error {
			return tx.Write(ctx, &Write{Layout: l, Deletes: keysOf(l.Table, row)})
		})
	})
}

// checkpoints returns the layout of the checkpoint table, and reads the stored position into s.
// It creates the table if necessary. It returns nil if the sink stores no checkpoint. It returns
// an error if the stored checkpoint is not the one that this process stored last.
func (s *Sink) checkpoints(ctx context.Context, conn Conn) (*Layout, error) {
	if s.env.Consumer == "" {
		return nil, nil
	}
	l, err := s.layoutOfOwn(ctx, conn, checkpointTable)
	if err == nil {
		err = s.checkPlacings(ctx, conn)
	}
	if err != nil || s.known {
		return l, err
	}
	rows, err := readCheckpoints(ctx, conn, l)
	if err != nil {
		return nil, err
	}
	stored, err := s.readOwnStates(ctx, conn)
	if err != nil {
		return nil, err
	}
	stored.restorePositions(rows, s.env.Consumer)
	found := findCheckpoint(rows, s.key())
	if s.held {
		if err := s.checkHeld(found, rows); err != nil {
			return nil, fault.Mark(fault.Fatal, err)
		}
	}
	s.hold(found, stored)
	return l, nil
}

// readOwnStates reads the states of this sink's consumer. It returns no states before Begin, or
// if the destination keeps no records.
func (s *Sink) readOwnStates(ctx context.Context, conn Conn) (none states, err error) {
	if s.unavailable != nil || s.epoch == 0 {
		return none, nil
	}
	l, err := s.layoutOfOwn(ctx, conn, stateTable)
	if err != nil {
		return none, err
	}
	return readStates(ctx, conn, l, s.env.Consumer)
}

// hold remembers the given checkpoint and states of the database as those that this process stored
// last. The parameter found is the checkpoint, or nil if the database has none yet. After a call of
// hold, any other checkpoint or states in the database are an error.
func (s *Sink) hold(found *checkpoint, stored states) {
	s.position, s.low, s.attempted, s.known, s.held = cdc.Position{}, cdc.Position{}, cdc.Position{}, true, true
	s.states = stored
	if found != nil {
		s.position, s.low, s.epoch, s.generation = found.position, found.low, found.epoch, found.generation
	}
}

// checkHeld checks the checkpoint in the database, which is the parameter found. It returns an
// error unless this process stored that checkpoint last, or tried to store it in a transaction
// whose outcome is unknown.
func (s *Sink) checkHeld(found *checkpoint, all []checkpoint) error {
	switch {
	case found == nil && s.epoch == 0 && s.position == cdc.Position{}: // no checkpoint was stored yet
		return nil
	case found == nil:
		return &sink.ReopenError{Reason: "the destination has lost its checkpoint"}
	case found.epoch > s.epoch:
		return &sink.WriterError{Writer: found.writer, Consumer: consumerOf(found, all)}
	case found.position.Sequence > s.position.Sequence && found.position != s.attempted:
		return &sink.WriterError{Consumer: found.consumer} // an earlier version leaves the epoch as it is
	case found.epoch < s.epoch, found.position != s.position && found.position != s.attempted:
		return &sink.ReopenError{Reason: fmt.Sprintf("the destination is at message %d although message %d was applied, as after a restore",
			found.position.Sequence, s.position.Sequence)}
	case found.generation != s.generation:
		return &sink.ReopenError{Reason: "tables have been imported", Imported: true}
	}
	return nil
}

// consumerOf returns the consumer of the process that has taken over the checkpoint c. It searches
// all checkpoints for the epoch of that process. If the process has stopped, consumerOf returns
// c's own consumer.
func consumerOf(c *checkpoint, all []checkpoint) string {
	for i := range all {
		if all[i].epoch == c.epoch && all[i].seen != 0 {
			return all[i].consumer
		}
	}
	return c.consumer
}

// moved handles ErrMoved. If the stored checkpoint is already the one that the failed transaction
// would have stored, an earlier attempt was durable and only its answer was lost, so moved
// returns nil.
func (s *Sink) moved(ctx context.Context, conn Conn, next cdc.Position, after states) error {
	s.known = false
	if _, err := s.checkpoints(ctx, conn); err != nil {
		return err
	}
	if s.position == next && s.recorded(after) {
		return nil
	}
	return fault.Mark(fault.Fatal, &sink.WriterError{Consumer: s.env.Consumer})
}

// Check writes the checkpoint again at its current position. That fails if another process has
// moved the checkpoint.
func (s *Sink) Check(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch == 0 {
		return nil
	}
	return s.attempt(ctx, "check the checkpoint", func(conn Conn) error {
		l, err := s.checkpoints(ctx, conn)
		if err != nil {
			return err
		}
		err = s.transact(ctx, conn, func(tx Tx) error { return tx.Checkpoint(ctx, l, s.low, s.at(s.low)) })
		if errors.Is(err, ErrMoved) {
			return s.moved(ctx, conn, s.position, s.states)
		}
		return err
	})
}

// release records in the checkpoint that this process has stopped writing.
func (s *Sink) release(ctx context.Context) error {
	if s.epoch == 0 || s.conn == nil || !s.known {
		return nil
	}
	l := s.layouts[s.ownTables[checkpointTable]]
	if l == nil {
		return nil
	}
	c := s.at(s.low)
	c.Seen = 0
	err := s.transact(ctx, s.conn, func(tx Tx) error { return tx.Checkpoint(ctx, l, s.low, c) })
	if err == nil || errors.Is(err, ErrMoved) { // another process has taken over
		return nil
	}
	return fmt.Errorf("release the checkpoint: %w", err)
}

// readCheckpoints returns all rows of the checkpoint table.
func readCheckpoints(ctx context.Context, conn Conn, l *Layout) ([]checkpoint, error) {
	var rows []checkpoint
	for row, err := range conn.Read(ctx, l) {
		if err != nil {
			return nil, fmt.Errorf("read the checkpoints: %w", err)
		}
		r := engineRow{l.Table, row}
		c := checkpoint{
			stream: r.text("stream"), consumer: r.text("consumer"), filter: r.text("filter"),
			epoch: r.integer("epoch"), generation: r.integer("generation"), followed: r.integer("followed"), seen: r.integer("seen"),
			writer: parseWriter(r.text("writer")), subjects: strings.Fields(r.text("subjects")),
			added: strings.Fields(r.text("added")), addedAt: r.integer("added_at"),
		}
		if len(c.subjects) == 0 {
			c.subjects = subjectsOf(c.filter)
		}
		if c.low, err = storedPosition(r); err != nil {
			return nil, err
		}
		c.position = c.low
		rows = append(rows, c)
	}
	return rows, nil
}

// findCheckpoint returns the row with key n, or nil if there is none.
func findCheckpoint(rows []checkpoint, n checkpointKey) *checkpoint {
	for i := range rows {
		if rows[i].key() == n {
			return &rows[i]
		}
	}
	return nil
}

// row returns c as a row of the checkpoint table.
func (c *checkpoint) row(t *schema.Table) (change.Row, error) {
	return recordRow(t, recordValues{
		"stream": c.stream, "consumer": c.consumer, "filter": c.filter, "position": int64(c.low.Sequence), "stored": c.low.Stored,
		"epoch": c.epoch, "generation": c.generation, "followed": c.followed, "seen": c.seen, "writer": formatWriter(c.writer),
		"subjects": strings.Join(c.subjects, " "), "added": strings.Join(c.added, " "), "added_at": c.addedAt,
	})
}

func storedPosition(r engineRow) (cdc.Position, error) {
	sequence, err := strconv.ParseUint(r.text("position"), 10, 64)
	if err != nil {
		return cdc.Position{}, fault.Mark(fault.Fatal, fmt.Errorf("the position in table %q is not a number", r.table.Name))
	}
	stored, err := strconv.ParseInt(r.text("stored"), 10, 64)
	if err != nil {
		return cdc.Position{}, fault.Mark(fault.Fatal, fmt.Errorf("the time in table %q is not a number", r.table.Name))
	}
	return cdc.Position{Sequence: sequence, Stored: stored}, nil
}
