package verify

import (
	"encoding/binary"
	"iter"

	"github.com/cespare/xxhash/v2"
)

// index keeps a record a key, in large blocks without pointers, which cost the
// garbage collector nothing however many there are.
type index struct {
	columns int
	blocks  [][]byte
	// slots is an open-addressing table, its length a power of two. A slot is 0
	// or the top bits of the key's hash above the record's place plus 1.
	slots []uint64
	count int
}

// record is one byte that says whether the other side has met the key, eight
// of the row's sum, one a column, the key's length, and the key.
type record struct {
	bytes   []byte
	columns int
}

// A place is a block's index and an offset in it.
const (
	offsetBits = 20
	placeBits  = 44
	placeMask  = 1<<placeBits - 1
)

func newIndex(columns int) *index {
	return &index{columns: columns, slots: make([]uint64, 1024)}
}

func (r record) met() bool      { return r.bytes[0] != 0 }
func (r record) meet()          { r.bytes[0] = 1 }
func (r record) sum() uint64    { return binary.LittleEndian.Uint64(r.bytes[1:]) }
func (r record) checks() []byte { return r.bytes[9 : 9+r.columns] }

func (r record) key() []byte {
	tail := r.bytes[9+r.columns:]
	n, w := binary.Uvarint(tail)
	return tail[w : w+int(n)]
}

// size returns the number of bytes of the record, which begins r.bytes.
func (r record) size() int {
	n, w := binary.Uvarint(r.bytes[9+r.columns:])
	return 9 + r.columns + w + int(n)
}

func (x *index) at(slot uint64) record {
	place := slot&placeMask - 1
	return record{x.blocks[place>>offsetBits][place&(1<<offsetBits-1):], x.columns}
}

// find returns the slot of key: the one that holds its record, or the empty
// one that would.
func (x *index) find(key []byte, hash uint64) *uint64 {
	mask := uint64(len(x.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		s := &x.slots[i]
		if *s == 0 || *s>>placeBits == hash>>placeBits && string(x.at(*s).key()) == string(key) {
			return s
		}
	}
}

// get returns the record of key.
func (x *index) get(key []byte) (record, bool) {
	if s := *x.find(key, xxhash.Sum64(key)); s != 0 {
		return x.at(s), true
	}
	return record{}, false
}

// put keeps a row and reports whether its key is new.
func (x *index) put(key []byte, sum uint64, checks []byte) bool {
	hash := xxhash.Sum64(key)
	s := x.find(key, hash)
	if *s != 0 {
		r := x.at(*s)
		binary.LittleEndian.PutUint64(r.bytes[1:], sum)
		copy(r.checks(), checks)
		return false
	}
	*s = hash&^placeMask | x.add(key, sum, checks) + 1
	if x.count++; x.count > len(x.slots)/4*3 {
		x.widen()
	}
	return true
}

// add appends a record and returns its place.
func (x *index) add(key []byte, sum uint64, checks []byte) uint64 {
	n, last := 9+len(checks)+binary.MaxVarintLen64+len(key), len(x.blocks)-1
	if last < 0 || len(x.blocks[last])+n > cap(x.blocks[last]) {
		x.blocks = append(x.blocks, make([]byte, 0, max(1<<offsetBits, n)))
		last++
	}
	b := x.blocks[last]
	place := uint64(last)<<offsetBits | uint64(len(b))
	b = binary.LittleEndian.AppendUint64(append(b, 0), sum)
	b = binary.AppendUvarint(append(b, checks...), uint64(len(key)))
	x.blocks[last] = append(b, key...)
	return place
}

// widen doubles the table.
func (x *index) widen() {
	old := x.slots
	x.slots = make([]uint64, 2*len(old))
	for _, s := range old {
		if s != 0 {
			key := x.at(s).key()
			*x.find(key, xxhash.Sum64(key)) = s
		}
	}
}

// records yields every record, in the order in which their keys came.
func (x *index) records() iter.Seq[record] {
	return func(yield func(record) bool) {
		for _, block := range x.blocks {
			for len(block) > 0 {
				r := record{block, x.columns}
				block = block[r.size():]
				if !yield(r) {
					return
				}
			}
		}
	}
}
