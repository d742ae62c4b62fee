package shop

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// snapshotMagic is the start of every snapshot file. Its last character is the version of the file
// format.
const snapshotMagic = "eds shop 2"

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// save writes a snapshot file. The file consists of the magic, the fingerprint of the layouts, a
// flag that says whether the shop was closed, the model's numbers, the rows of every table in their
// order in memory, and the CRC-32C of all that.
func (m *model) save(out io.Writer, closed bool) error {
	w := checksumWriter{w: bufio.NewWriterSize(out, 1<<20), sum: crc32.New(castagnoli())}
	head := binary.LittleEndian.AppendUint32([]byte(snapshotMagic), m.fingerprint())
	numbers := []uint64{0, m.seed, uint64(m.customers), uint64(m.history), m.step, m.seq, uint64(m.evolved)}
	if closed {
		numbers[0] = 1
	}
	for _, n := range numbers {
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

// fingerprint returns a checksum of the tables' layouts. Only a program with the same columns can
// load a snapshot.
func (m *model) fingerprint() uint32 {
	sum := crc32.New(castagnoli())
	for _, t := range m.tables {
		for _, l := range t.layouts {
			sum.Write([]byte(l.version + strings.Join(l.names, "")))
		}
	}
	return sum.Sum32()
}

// load loads a snapshot file that save wrote. The second result is true if the shop was closed, and
// false if it was killed after the file was written.
func load(path string) (m *model, closed bool, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, false, err
	}
	body := len(text) - 4
	if body < len(snapshotMagic) || string(text[:len(snapshotMagic)]) != snapshotMagic ||
		binary.LittleEndian.Uint32(text[body:]) != crc32.Checksum(text[:body], castagnoli()) {
		return nil, false, fmt.Errorf("%s is not a snapshot of a shop, or damaged", path)
	}
	r := snapshotReader{rest: text[len(snapshotMagic):body]}
	fingerprint := r.uint32()
	closed = r.uint() == 1
	m = newModel(r.uint(), int(r.uint()), int64(r.uint()))
	m.step, m.seq = r.uint(), r.uint()
	for want := r.uint(); uint64(m.evolved) < want; {
		if m.evolve() == nil {
			return nil, false, fmt.Errorf("%s: its schema is newer than this version of the program", path)
		}
	}
	if fingerprint != m.fingerprint() {
		return nil, false, fmt.Errorf("%s is from another version of the program; remove the directory to begin a new shop", path)
	}
	m.clock = r.clock()
	for _, t := range m.tables {
		m.loadTable(t, &r)
	}
	return m, closed, r.err
}

func (m *model) loadTable(t *tableRows, r *snapshotReader) {
	next, n := r.uint(), r.uint()
	for range n {
		layout := r.index(len(t.layouts))
		image := append([]byte(nil), r.bytes()...)
		if r.err != nil {
			return
		}
		l := t.layouts[layout]
		m.spans = cut(l, image, m.spans)
		row := cutRow{table: t, layout: l, image: image, spans: m.spans}
		m.put(&row, layout)
		if t.name() == orderTable {
			m.fileOrder(row.keyOf(), "", row.text("status"))
		}
	}
	t.next = next
}

// checksumWriter buffers writes, computes their checksum, and keeps the first error.
type checksumWriter struct {
	w   *bufio.Writer
	sum hash.Hash32
	err error
}

func (w *checksumWriter) write(b []byte) {
	w.sum.Write(b)
	if _, err := w.w.Write(b); err != nil && w.err == nil {
		w.err = err
	}
}

func appendClock(dst []byte, t cdc.Timestamp) []byte {
	dst = binary.AppendVarint(dst, t.Wall)
	return binary.AppendUvarint(dst, uint64(t.Logical))
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

var errDamaged = errors.New("the snapshot is damaged")

// snapshotReader decodes the values in a snapshot file. After the first error, it returns zero
// values.
type snapshotReader struct {
	rest []byte
	err  error
}

func (r *snapshotReader) uint() uint64 {
	v, n := binary.Uvarint(r.rest)
	return take(r, v, n)
}

func (r *snapshotReader) int() int64 {
	v, n := binary.Varint(r.rest)
	return take(r, v, n)
}

func (r *snapshotReader) uint32() uint32 {
	if len(r.rest) < 4 {
		return take(r, uint32(0), 0)
	}
	return take(r, binary.LittleEndian.Uint32(r.rest), 4)
}

// take consumes the n bytes of the value v, and returns v. If n is not positive, the bytes were
// malformed, and take sets the error.
func take[T uint64 | int64 | uint32](r *snapshotReader, v T, n int) T {
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *snapshotReader) fail() { r.err, r.rest = errDamaged, nil }

// index reads a number that must be less than n.
func (r *snapshotReader) index(n int) int {
	v := r.uint()
	if v >= uint64(n) {
		r.fail()
		return 0
	}
	return int(v)
}

// bytes reads a byte string. The result shares the reader's memory.
func (r *snapshotReader) bytes() []byte {
	n := r.uint()
	if n > uint64(len(r.rest)) {
		r.fail()
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *snapshotReader) clock() cdc.Timestamp {
	wall := r.int()
	return cdc.Timestamp{Wall: wall, Logical: uint32(r.uint())}
}
