package encode

import (
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"

	"github.com/cespare/xxhash/v2"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// none replaces a company or location that an event lacks, in keys.
const none = "NONE"

func orNone(id string) string {
	if id == "" {
		return none
	}
	return id
}

// PartitionKey returns <table>.<companyId|NONE>.<locationId|NONE>.<primary key>:
// events of one row share it.
func PartitionKey(e *cdc.Event) string { return string(AppendPartitionKey(nil, e)) }

// AppendPartitionKey appends PartitionKey's result to dst.
func AppendPartitionKey(dst []byte, e *cdc.Event) []byte {
	dst = appendOwner(append(dst, e.Table...), e)
	return e.AppendRowID(append(dst, '.'))
}

// appendOwner appends .<companyId|NONE>.<locationId|NONE>.
func appendOwner(dst []byte, e *cdc.Event) []byte {
	dst = append(append(dst, '.'), orNone(e.CompanyID)...)
	return append(append(dst, '.'), orNone(e.LocationID)...)
}

// Partition returns the partition, out of n, of events with the given partition
// key: fnv32a(lower-hex(xxhash64(key))) mod n, both over the bytes of the
// string, the hexadecimal form always of sixteen digits.
func Partition(key []byte, n int) int { return int(fnv32a(hexHash(key)) % uint32(n)) }

func hexHash(text []byte) []byte {
	sum := binary.BigEndian.AppendUint64(make([]byte, 0, 8), xxhash.Sum64(text))
	return hex.AppendEncode(make([]byte, 0, 16), sum)
}

func fnv32a(text []byte) uint32 {
	h := fnv.New32a()
	_, _ = h.Write(text) // never fails
	return h.Sum32()
}

// MessageKey returns the key of an event's message in Kafka:
// dbchange.<table>.<operation>.<companyId|NONE>.<locationId|NONE>.<change id>.
func MessageKey(e *cdc.Event) string { return string(AppendMessageKey(nil, e)) }

// AppendMessageKey appends MessageKey's result to dst.
func AppendMessageKey(dst []byte, e *cdc.Event) []byte {
	dst = append(append(dst, "dbchange."...), e.Table...)
	dst = append(append(dst, '.'), e.Op.String()...)
	return append(append(appendOwner(dst, e), '.'), e.ID...)
}

// unixSeconds returns when the event happened, in seconds since 1970 UTC.
func unixSeconds(e *cdc.Event) int64 {
	if e.Timestamp == 0 {
		return e.Clock.Wall / 1_000_000_000
	}
	return e.Timestamp / 1000
}
