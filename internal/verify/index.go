package verify

import (
	"encoding/binary"
	"iter"

	"github.com/cespare/xxhash/v2"
)

// index keeps one record per key. It stores the records in large blocks without pointers, so the
// garbage collector does not scan them.
type index struct {
	columns int
	blocks  [][]byte
	// slots is an open-addressing table. Its length is a power of two. An empty slot is 0. Any
	// other slot holds the top bits of the key's hash, and in its low addressBits the record's
	// address plus 1.
	slots []uint64
	count int
}

// rowRecord is the record of one row. Its bytes are: one byte that becomes 1 when the key is also
// found on the other side, eight bytes of the row's sum, one byte per column, the key's length as a
// varint, and the key. The slice may extend beyond the record.
type rowRecord struct {
	bytes   []byte
	columns int
}

// An address consists of a block's index and, in the low offsetBits, an offset in the block.
const (
	offsetBits  = 20
	addressBits = 44
	addressMask = 1<<addressBits - 1
)

func newIndex(columns int) *index {
	return &index{columns: columns, slots: make([]uint64, 1024)}
}

func (r rowRecord) seen() bool     { return r.bytes[0] != 0 }
func (r rowRecord) markSeen()      { r.bytes[0] = 1 }
func (r rowRecord) sum() uint64    { return binary.LittleEndian.Uint64(r.bytes[1:]) }
func (r rowRecord) checks() []byte { return r.bytes[9 : 9+r.columns] }

func (r rowRecord) key() []byte {
	tail := r.bytes[9+r.columns:]
	n, w := binary.Uvarint(tail)
	return tail[w : w+int(n)]
}

// size returns the size of the record at the start of r.bytes, in bytes.
func (r rowRecord) size() int {
	n, w := binary.Uvarint(r.bytes[9+r.columns:])
	return 9 + r.columns + w + int(n)
}

func (x *index) at(slot uint64) rowRecord {
	address := slot&addressMask - 1
	return rowRecord{x.blocks[address>>offsetBits][address&(1<<offsetBits-1):], x.columns}
}

// find returns the slot of key, which is empty if there is no record of key.
func (x *index) find(key []byte, hash uint64) *uint64 {
	mask := uint64(len(x.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		s := &x.slots[i]
		if *s == 0 || *s>>addressBits == hash>>addressBits && string(x.at(*s).key()) == string(key) {
			return s
		}
	}
}

// get returns the record of key, and reports whether there is one.
func (x *index) get(key []byte) (rowRecord, bool) {
	if s := *x.find(key, xxhash.Sum64(key)); s != 0 {
		return x.at(s), true
	}
	return rowRecord{}, false
}

// put stores the record of a row, and reports whether its key is new. It replaces an earlier record
// of the key.
func (x *index) put(key []byte, sum uint64, checks []byte) bool {
	hash := xxhash.Sum64(key)
	s := x.find(key, hash)
	if *s != 0 {
		r := x.at(*s)
		binary.LittleEndian.PutUint64(r.bytes[1:], sum)
		copy(r.checks(), checks)
		return false
	}
	*s = hash&^addressMask | x.add(key, sum, checks) + 1
	if x.count++; x.count > len(x.slots)/4*3 {
		x.grow()
	}
	return true
}

// add appends a record and returns its address.
func (x *index) add(key []byte, sum uint64, checks []byte) uint64 {
	n, last := 9+len(checks)+binary.MaxVarintLen64+len(key), len(x.blocks)-1
	if last < 0 || len(x.blocks[last])+n > cap(x.blocks[last]) {
		x.blocks = append(x.blocks, make([]byte, 0, max(1<<offsetBits, n)))
		last++
	}
	b := x.blocks[last]
	address := uint64(last)<<offsetBits | uint64(len(b))
	b = binary.LittleEndian.AppendUint64(append(b, 0), sum)
	b = binary.AppendUvarint(append(b, checks...), uint64(len(key)))
	x.blocks[last] = append(b, key...)
	return address
}

// grow doubles the number of slots.
func (x *index) grow() {
	old := x.slots
	x.slots = make([]uint64, 2*len(old))
	for _, s := range old {
		if s != 0 {
			key := x.at(s).key()
			*x.find(key, xxhash.Sum64(key)) = s
		}
	}
}

// records yields every record, in the order in which put first stored the keys.
func (x *index) records() iter.Seq[rowRecord] {
	return func(yield func(rowRecord) bool) {
		for _, block := range x.blocks {
			for len(block) > 0 {
				r := rowRecord{block, x.columns}
				block = block[r.size():]
				if !yield(r) {
					return
				}
			}
		}
	}
}
