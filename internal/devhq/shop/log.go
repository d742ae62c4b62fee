package shop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// The log is a run of records: the length of the payload and its CRC-32C, four
// little-endian bytes each, then the payload. A payload's first byte is its kind.
const (
	recordStep      = 'S' // one step: its number, then its operations
	recordEvolution = 'E' // one evolution: how many there have been with it
	recordClock     = 'C' // a clock was handed out, to a snapshot
	recordPublished = 'P' // every change up to this number is in the stream
)

const recordHeader = 8

// maxRecord bounds a record's payload; more is a damaged length.
const maxRecord = 1 << 30

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// appendRecord appends a record of the given kind whose payload body appends.
func appendRecord(dst []byte, kind byte, body func([]byte) []byte) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, recordHeader)...)
	dst = body(append(dst, kind))
	payload := dst[start+recordHeader:]
	binary.LittleEndian.PutUint32(dst[start:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(dst[start+4:], crc32.Checksum(payload, castagnoli()))
	return dst
}

// nextRecord returns the payload of the first record of log and what follows
// it; ok is false where no whole record follows, which is where the log ends.
func nextRecord(log []byte) (payload, rest []byte, ok bool) {
	if len(log) < recordHeader {
		return nil, log, false
	}
	n := binary.LittleEndian.Uint32(log)
	if n == 0 || n > maxRecord || uint64(len(log)-recordHeader) < uint64(n) {
		return nil, log, false
	}
	payload = log[recordHeader : recordHeader+n]
	if crc32.Checksum(payload, castagnoli()) != binary.LittleEndian.Uint32(log[4:]) {
		return nil, log, false
	}
	return payload, log[recordHeader+n:], true
}

// appendOperation appends an operation as the log holds it.
func appendOperation(dst []byte, o *operation) []byte {
	dst = append(dst, byte(o.op))
	dst = binary.AppendUvarint(dst, uint64(o.table.index))
	dst = appendClock(dst, o.clock)
	dst = appendBytes(dst, o.user)
	imported := byte(0)
	if o.imported {
		imported = 1
	}
	dst = append(dst, imported)
	switch o.op {
	case cdc.Insert:
		return appendBytes(dst, o.image)
	case cdc.Update:
		dst = binary.AppendUvarint(dst, uint64(o.slot))
		dst = binary.AppendUvarint(dst, uint64(len(o.sets)))
		for _, s := range o.sets {
			dst = binary.AppendUvarint(dst, uint64(s.column))
			dst = appendBytes(dst, s.value)
		}
		return dst
	default:
		return binary.AppendUvarint(dst, uint64(o.slot))
	}
}

func appendNumber[T uint64 | int](dst []byte, n T) []byte {
	return binary.AppendUvarint(dst, uint64(n))
}

func appendClock(dst []byte, t cdc.Timestamp) []byte {
	dst = binary.AppendVarint(dst, t.Wall)
	return binary.AppendUvarint(dst, uint64(t.Logical))
}

func appendBytes[T string | []byte](dst []byte, b T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

var errDamaged = errors.New("a record is damaged")

// reader reads what the append functions wrote. After the first error it
// returns zeros.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		return uint64(r.fail())
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) uint32() uint32 {
	if len(r.rest) < 4 {
		return uint32(r.fail())
	}
	v := binary.LittleEndian.Uint32(r.rest)
	r.rest = r.rest[4:]
	return v
}

// index reads a number that must be below n.
func (r *reader) index(n int) int {
	v := r.uint()
	if v >= uint64(n) {
		return r.fail()
	}
	return int(v)
}

func (r *reader) fail() int {
	r.err, r.rest = errDamaged, nil
	return 0
}

func (r *reader) int() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		return int64(r.fail())
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		return byte(r.fail())
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

// bytes reads bytes that share the reader's memory.
func (r *reader) bytes() []byte {
	n := r.uint()
	if n > uint64(len(r.rest)) {
		r.fail()
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) clock() cdc.Timestamp {
	wall := r.int()
	return cdc.Timestamp{Wall: wall, Logical: uint32(r.uint())}
}

// operation reads what appendOperation wrote. The operation is good until the
// reader's memory is reused.
func (r *reader) operation(m *model) (operation, error) {
	o := operation{op: cdc.Op(r.byte())}
	tables := len(m.tables)
	if o.table = m.tables[r.index(tables)]; r.err != nil {
		return o, r.err
	}
	o.clock = r.clock()
	o.user = string(r.bytes())
	o.imported = r.byte() == 1
	switch o.op {
	case cdc.Insert:
		o.image = append([]byte(nil), r.bytes()...)
	case cdc.Update:
		o.slot = r.index(len(o.table.rows))
		columns := len(o.table.latest().columns)
		for range r.index(columns + 1) {
			o.sets = append(o.sets, assignment{r.index(columns), r.bytes()})
		}
	case cdc.Delete:
		o.slot = r.index(len(o.table.rows))
	default:
		return o, fmt.Errorf("operation %d: %w", o.op, errDamaged)
	}
	return o, r.err
}

// evolve reads how many evolutions there have been, and makes those that m lacks.
func (r *reader) evolve(m *model) error {
	for want := r.uint(); uint64(m.evolved) < want; {
		if m.evolve() == nil {
			return errors.New("the schema evolved further than this version of the program knows")
		}
	}
	return r.err
}

// replay performs one record's payload on m and calls yield with its changes.
func (m *model) replay(payload []byte, yield func(Change)) error {
	r := reader{rest: payload[1:]}
	switch payload[0] {
	case recordStep:
		m.step = r.uint()
		for len(r.rest) > 0 && r.err == nil {
			o, err := r.operation(m)
			if err != nil {
				return err
			}
			yield(m.apply(&o))
		}
	case recordEvolution:
		return r.evolve(m)
	case recordClock:
		m.clock = r.clock()
	case recordPublished:
		r.uint()
	default:
		return fmt.Errorf("record kind %q: %w", payload[0], errDamaged)
	}
	return r.err
}
