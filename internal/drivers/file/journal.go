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

// journal is what one consumer has written durably: the position that it
// reached, and how long the files are that it appends to. Replacing it, whole,
// is what makes a batch count.
type journal struct {
	Stream   string `json:"stream"`
	Consumer string `json:"consumer"`
	Filter   string `json:"filter"`

	Sequence uint64 `json:"sequence"`
	Stored   int64  `json:"stored"`
	// Open are the files that are appended to, by their directory.
	Open map[string]openFile `json:"open"`
	// Begun are files that a batch is about to begin. Where it does not get so
	// far as to count they are removed, and no others ever are.
	Begun []string `json:"begun,omitempty"`
}

// openFile is a file that is appended to.
type openFile struct {
	Name  string    `json:"name"`
	Size  int64     `json:"size"` // bytes; whatever is behind them does not count
	Rows  int64     `json:"rows"`
	Begun time.Time `json:"begun"`
}

func newJournal(env sink.Env) journal {
	return journal{Stream: env.Stream, Consumer: env.Consumer, Filter: env.Filter, Open: make(map[string]openFile)}
}

func (j journal) position() cdc.Position { return cdc.Position{Sequence: j.Sequence, Stored: j.Stored} }

// at returns j with another position and nothing begun. It can be changed without
// changing j.
func (j journal) at(p cdc.Position) journal {
	j.Sequence, j.Stored, j.Begun = p.Sequence, p.Stored, nil
	j.Open = maps.Clone(j.Open)
	return j
}

// id is a short hash of the names of the place that checkpoints are kept in.
func (j journal) id() string {
	return lake.ID(sink.Env{Stream: j.Stream, Consumer: j.Consumer, Filter: j.Filter})
}

// fileName names a file by the position of its first event: names sort as the
// stream does. The nth file of a name, from 1, is told apart by its number.
func (j journal) fileName(first cdc.Position, n int, extension string) string {
	name := fmt.Sprintf("%019d-%020d-%s", max(first.Stored, 0), first.Sequence, j.id())
	if n > 1 {
		name += fmt.Sprintf("~%d", n)
	}
	return name + extension
}

func (j journal) path() string { return path.Join(own, "journal", j.id()+".json") }

// load reads the journal as it is on disk; where there is none yet it is empty.
func (s *store) load() (journal, error) {
	j := newJournal(s.env)
	text, err := s.disk.readFile(j.path())
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &j)
	}
	if err != nil {
		return j, fmt.Errorf("read the journal of written files: %w", bare(err))
	}
	if j.Open == nil {
		j.Open = make(map[string]openFile)
	}
	return j, nil
}

// save makes j the journal on disk. An error does not tell which one is.
func (s *store) save(j journal) error {
	text, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	if err := s.replace(j.path(), append(text, '\n')); err != nil {
		return fmt.Errorf("write the journal of written files: %w", err)
	}
	return nil
}
