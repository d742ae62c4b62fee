package shop

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/durable"
)

// store is the shop's directory. It holds one checkpoint, the whole model at
// one moment, and one log of what happened since, both of the same generation.
// A checkpoint is complete once it has its name; the log that belongs to it may
// then still be missing, and the generation before it still be there.
type store struct {
	dir        string
	generation uint64
	log        *os.File
	size       int64 // of the log
	sync       func(*os.File) error
}

func checkpointName(generation uint64) string { return fmt.Sprintf("checkpoint-%012d", generation) }
func logName(generation uint64) string        { return fmt.Sprintf("log-%012d", generation) }

// newest returns the generation of the newest checkpoint in dir, 0 where there
// is none.
func newest(dir string) (uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var found uint64
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), "checkpoint-")
		if n, err := strconv.ParseUint(digits, 10, 64); ok && err == nil {
			found = max(found, n)
		}
	}
	return found, nil
}

// openLog opens the log for appending and replays what is in it. A record that
// was cut short by a crash is removed: nothing of it was ever published.
func (s *store) openLog(replay func(payload []byte) error) error {
	path := filepath.Join(s.dir, logName(s.generation))
	text, err := os.ReadFile(path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	rest := text
	for {
		payload, after, ok := nextRecord(rest)
		if !ok {
			break
		}
		if err := replay(payload); err != nil {
			return fmt.Errorf("replay %s at byte %d: %w", path, len(text)-len(rest), err)
		}
		rest = after
	}
	s.size = int64(len(text) - len(rest))
	if s.log, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	_, err = s.log.Seek(s.size, io.SeekStart)
	if err == nil && s.size < int64(len(text)) {
		err = s.log.Truncate(s.size)
	}
	if err == nil && missing {
		err = durable.SyncDir(s.dir)
	}
	if err != nil {
		return errors.Join(err, s.log.Close())
	}
	return nil
}

// append writes records to the log; with durable, they survive a crash of the
// machine once it returns, otherwise one of the process.
func (s *store) append(records []byte, durable bool) error {
	n, err := s.log.Write(records)
	s.size += int64(n)
	if err != nil {
		return err
	}
	if durable {
		return s.sync(s.log)
	}
	return nil
}

// checkpoint begins the next generation with the model as it is.
func (s *store) checkpoint(m *model) error {
	next := s.generation + 1
	path := filepath.Join(s.dir, checkpointName(next))
	if err := writeFile(path+".tmp", m.save); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(s.dir, logName(next)), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := durable.SyncDir(s.dir); err != nil {
		return errors.Join(err, log.Close())
	}
	if s.log != nil {
		err = s.log.Close()
	}
	s.generation, s.log, s.size = next, log, 0
	return errors.Join(err, s.sweep())
}

// sweep removes what other generations left behind.
func (s *store) sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	keep := []string{checkpointName(s.generation), logName(s.generation)}
	for _, e := range entries {
		ours := strings.HasPrefix(e.Name(), "checkpoint-") || strings.HasPrefix(e.Name(), "log-")
		if ours && !slices.Contains(keep, e.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(s.dir, e.Name())))
		}
	}
	return err
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}

// checkpointMagic begins every checkpoint; its last character is the version of
// the form.
const checkpointMagic = "eds shop 1"

// save writes the model: its numbers, then every table's rows in their order,
// then the checksum of it all.
func (m *model) save(out io.Writer) error {
	w := checkpointWriter{w: bufio.NewWriterSize(out, 1<<20), sum: crc32.New(castagnoli())}
	head := binary.LittleEndian.AppendUint32([]byte(checkpointMagic), m.fingerprint())
	for _, n := range []uint64{m.seed, uint64(m.customers), uint64(m.born), m.step, m.seq, uint64(m.evolved)} {
		head = binary.AppendUvarint(head, n)
	}
	w.write(appendClock(head, m.clock))
	for _, t := range m.tables {
		w.write(binary.AppendUvarint(binary.AppendUvarint(nil, t.next), uint64(len(t.rows))))
		for i := range t.rows {
			w.write(appendBytes(binary.AppendUvarint(nil, uint64(t.rows[i].layout)), t.rows[i].image))
		}
	}
	w.write(binary.LittleEndian.AppendUint32(nil, w.sum.Sum32()))
	return errors.Join(w.err, w.w.Flush())
}

// fingerprint tells apart what the tables may look like, so that a checkpoint is
// read only by a program with the columns in mind that it was written with.
func (m *model) fingerprint() uint32 {
	sum := crc32.New(castagnoli())
	for _, t := range m.tables {
		for _, l := range t.layouts {
			sum.Write([]byte(l.version + strings.Join(l.names, "")))
		}
	}
	return sum.Sum32()
}

type checkpointWriter struct {
	w   *bufio.Writer
	sum hash.Hash32
	err error
}

func (w *checkpointWriter) write(b []byte) {
	w.sum.Write(b)
	if _, err := w.w.Write(b); err != nil && w.err == nil {
		w.err = err
	}
}

// load reads what save wrote.
func load(path string) (*model, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	body := len(text) - 4
	if body < len(checkpointMagic) || string(text[:len(checkpointMagic)]) != checkpointMagic ||
		binary.LittleEndian.Uint32(text[body:]) != crc32.Checksum(text[:body], castagnoli()) {
		return nil, fmt.Errorf("%s is not a checkpoint of a shop, or damaged", path)
	}
	r := reader{rest: text[len(checkpointMagic):body]}
	fingerprint := r.uint32()
	m := newModel(r.uint(), int(r.uint()), int64(r.uint()))
	m.step, m.seq = r.uint(), r.uint()
	if err := r.evolve(m); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if fingerprint != m.fingerprint() {
		return nil, fmt.Errorf("%s was written by another version of the program; remove the directory to begin a new shop", path)
	}
	m.clock = r.clock()
	for _, t := range m.tables {
		m.loadTable(t, &r)
	}
	return m, r.err
}

func (m *model) loadTable(t *table, r *reader) {
	next, n := r.uint(), r.uint()
	for range n {
		layout := r.index(len(t.layouts))
		image := append([]byte(nil), r.bytes()...)
		if r.err != nil {
			return
		}
		l := t.layouts[layout]
		m.spans = cut(l, image, m.spans)
		row := row{table: t, layout: l, image: image, spans: m.spans}
		m.put(&row, layout)
		if t.name() == orderTable {
			m.file(row.keyOf(), "", row.text("status"))
		}
	}
	t.next = next
}
