package dlq

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/durable"
)

// temporary is the name prefix of files that are being written.
const temporary = ".writing-"

func (q *Queue) path(name, extension string) string { return filepath.Join(q.dir, name+extension) }

// write writes the file of e durably and atomically. The caller holds mu.
func (q *Queue) write(e *Entry) error {
	header, err := json.Marshal(e)
	if err != nil {
		return err
	}
	err = durable.Replace(q.path(e.name, live), temporary+"*", func(w io.Writer) error {
		if _, err := w.Write(append(header, '\n')); err != nil {
			return err
		}
		_, err := w.Write(e.Payload)
		return err
	})
	if err != nil {
		return err
	}
	kept := e.summary()
	kept.State = kept.unmarkedState()
	q.enter(&kept)
	q.appendLine(&kept)
	return nil
}

// stageDamaged is the Stage of an entry whose file cannot be decoded.
const stageDamaged = "damaged"

// damaged returns an entry for a file that cannot be decoded. Its position comes from the
// file's name.
func damaged(name, reason string) Entry {
	e := Entry{Stage: stageDamaged, Reason: reason}
	_, _ = fmt.Sscanf(name, "%020d-%019d", &e.Sequence, &e.Stored) // fields that are missing in the name stay 0
	return e
}

// read reads the entry in the file with the given name. It reads the entry's payload only if the
// parameter payload is true. If the file exists but cannot be read, read returns an entry with
// stageDamaged. Such a file must neither disappear from the list nor block the reading of other
// files. The only error is fs.ErrNotExist.
func (q *Queue) read(name string, payload bool) (Entry, error) {
	path := filepath.Join(q.dir, name)
	info, err := os.Lstat(path)
	switch {
	case err == nil && !info.Mode().IsRegular(): // reading another kind of file may block or never end
		err = errors.New("it is no regular file")
	case err == nil:
		var e Entry
		if e, err = readEntry(path, name, payload); err == nil {
			return e, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return Entry{}, err
	}
	if of, ok := errors.AsType[*fs.PathError](err); ok {
		err = of.Err
	}
	e := damaged(name, fmt.Sprintf("the entry's file cannot be read: %v", err))
	e.identify(name)
	return e, nil
}

func readEntry(path, name string, payload bool) (Entry, error) {
	f, err := os.Open(path)
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
		e = damaged(name, "the entry's file is damaged")
	}
	old := e.Keys == nil || e.Rows == nil && len(e.Keys) > 0 && e.Destination == ""
	if payload || old {
		if e.Payload, err = io.ReadAll(r); err != nil {
			return Entry{}, err
		}
	}
	if old {
		e.Keys, e.Rows = keysOf(&e)
	}
	if !payload {
		e.Payload = nil
	}
	e.identify(name)
	return e, nil
}

// identify sets the fields that are derived from the file's name: the entry's name, id and
// state.
func (e *Entry) identify(name string) {
	e.name = entryName(name)
	e.ID = idOf(e.name)
	if e.State = e.unmarkedState(); strings.HasSuffix(name, superseded) {
		e.State = Superseded
	}
}

// entryName returns the given file name without its extension.
func entryName(name string) string {
	return strings.TrimSuffix(strings.TrimSuffix(name, superseded), live)
}

// keysOf returns the keys and rows of an entry whose file was written by an older version. The keys
// in that file either have a form that does not match the keys of applied changes, or are not
// assigned to rows. Therefore keysOf computes new keys from the payload.
func keysOf(e *Entry) ([]string, [][]string) {
	var event cdc.Event
	if e.Stage == stageDamaged || cdc.NewDecoder().Decode(&event, e.Payload, e.Encoding) != nil {
		return []string{}, nil
	}
	keys, rows := change.LetterKeys(&event, change.Effect{})
	return append([]string{}, keys...), rows
}

// names returns the file names of the queue's entries in stream order.
func (q *Queue) names() ([]string, error) {
	dir, err := os.Open(q.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		return strings.HasPrefix(name, temporary) || !strings.HasSuffix(name, live) && !strings.HasSuffix(name, superseded)
	})
	slices.Sort(names)
	// After a power cut an entry may have a file with either extension. In that case the entry
	// was put again after it was superseded, so the file with the extension .event counts. It
	// sorts first.
	return slices.CompactFunc(names, func(a, b string) bool { return entryName(a) == entryName(b) }), nil
}
