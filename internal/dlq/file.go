package dlq

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/durable"
)

// temporary begins the name of a file that is being written.
const temporary = ".writing-"

// write makes e's file: whole and durable, or not at all.
func (q *Queue) write(e *Entry) error {
	header, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return durable.Replace(q.path(e.ID, waiting), temporary+"*", func(w io.Writer) error {
		if _, err := w.Write(append(header, '\n')); err != nil {
			return err
		}
		_, err := w.Write(e.Payload)
		return err
	})
}

// stageDamaged marks an entry whose file does not say what it is.
const stageDamaged = "damaged"

// damaged is what the name of a file tells.
func damaged(name string) Entry {
	e := Entry{Stage: stageDamaged, Reason: "the entry's file is damaged"}
	_, _ = fmt.Sscanf(name, "%020d-%019d", &e.Sequence, &e.Stored) // what it can't tell stays 0
	return e
}

// read reads the file called name, its payload only if asked to.
func (q *Queue) read(name string, payload bool) (Entry, error) {
	f, err := os.Open(filepath.Join(q.dir, name))
	if err != nil {
		return Entry{}, err
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReader(f)
	header, err := r.ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return Entry{}, err
	}
	var e Entry
	if json.Unmarshal(header, &e) != nil {
		e = damaged(name)
	}
	e.ID, e.Superseded = strings.CutSuffix(name, superseded)
	e.ID = strings.TrimSuffix(e.ID, waiting)
	if !payload && e.Keys != nil {
		return e, nil
	}
	if e.Payload, err = io.ReadAll(r); err != nil {
		return Entry{}, err
	}
	if e.Keys == nil {
		e.Keys = keysOf(&e)
	}
	if !payload {
		e.Payload = nil
	}
	return e, nil
}

// keysOf returns the keys of an entry whose file does not tell them, as those that
// earlier versions wrote do not. Their "key" is of another form, which does not
// compare with the keys of changes that are applied.
func keysOf(e *Entry) []string {
	var event cdc.Event
	if e.Stage == stageDamaged || cdc.NewDecoder().Decode(&event, e.Payload, e.Encoding) != nil {
		return []string{}
	}
	return append([]string{}, change.LetterKeys(&event, change.Effect{})...)
}
