package file

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/lake"
)

// fileJournal records the durable state of one consumer: its position in the stream, and the
// committed lengths of the files to which it appends. Replacing the journal on disk commits a
// batch.
type fileJournal struct {
	Stream   string `json:"stream"`
	Consumer string `json:"consumer"`
	Filter   string `json:"filter"`

	Sequence uint64 `json:"sequence"`
	Stored   int64  `json:"stored"`
	// Open maps a directory to its open file, to which later batches append.
	Open map[string]openFile `json:"open"`
	// Begun lists the new files of the batch that is being written. If the batch is not committed,
	// recovery removes only these files.
	Begun []string `json:"begun,omitempty"`
}

// openFile is a file to which later batches append.
type openFile struct {
	Name  string    `json:"name"`
	Size  int64     `json:"size"` // in bytes; bytes beyond Size are uncommitted
	Rows  int64     `json:"rows"`
	Begun time.Time `json:"begun"`
}

func newFileJournal(env sink.Env) fileJournal {
	return fileJournal{Stream: env.Stream, Consumer: env.Consumer, Filter: env.Filter, Open: make(map[string]openFile)}
}

func (j fileJournal) position() cdc.Position {
	return cdc.Position{Sequence: j.Sequence, Stored: j.Stored}
}

// withPosition returns a copy of j with position p and an empty Begun. The copy shares no memory
// with j.
func (j fileJournal) withPosition(p cdc.Position) fileJournal {
	j.Sequence, j.Stored, j.Begun = p.Sequence, p.Stored, nil
	j.Open = maps.Clone(j.Open)
	return j
}

// id returns a short hash that identifies the consumer's checkpoint.
func (j fileJournal) id() string {
	return lake.ID(sink.Env{Stream: j.Stream, Consumer: j.Consumer, Filter: j.Filter})
}

// fileName returns the name of a new file whose first event is at the position first. The name
// begins with that position, so that names sort in stream order. The number n, from 1,
// distinguishes files with the same first event.
func (j fileJournal) fileName(first cdc.Position, n int, extension string) string {
	name := fmt.Sprintf("%019d-%020d-%s", max(first.Stored, 0), first.Sequence, j.id())
	if n > 1 {
		name += fmt.Sprintf("~%d", n)
	}
	return name + extension
}

func (j fileJournal) path() string { return path.Join(privateDir, "journal", j.id()+".json") }

// readJournal reads the journal from disk. It returns an empty journal if there is none.
func (s *fileStore) readJournal() (fileJournal, error) {
	j := newFileJournal(s.env)
	text, err := s.disk.readFile(j.path())
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &j)
	}
	if err != nil {
		return j, fmt.Errorf("read the journal of written files: %w", withoutNames(err))
	}
	if j.Open == nil {
		j.Open = make(map[string]openFile)
	}
	return j, nil
}

// writeJournal replaces the journal on disk. After an error the disk may have the old or the new
// journal.
func (s *fileStore) writeJournal(j fileJournal) error {
	text, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	if err := s.replace(j.path(), append(text, '\n')); err != nil {
		return fmt.Errorf("write the journal of written files: %w", err)
	}
	return nil
}
