package encode

import (
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"

	"github.com/cespare/xxhash/v2"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// none replaces an empty company or location in keys, and an empty path element.
const none = "NONE"

func orNone(id string) string {
	if id == "" {
		return none
	}
	return id
}

// PartitionKey returns <table>.<companyId|NONE>.<locationId|NONE>.<primary key>. All events of
// one row have the same key.
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

// Partition returns the partition, out of n, for a partition key. The result is
// fnv32a(hex(xxhash64(key))) mod n. Here, hex formats the hash as sixteen lower-case hexadecimal
// digits, and fnv32a hashes the bytes of that text.
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

// MessageKey returns the Kafka message key of an event:
// dbchange.<table>.<operation>.<companyId|NONE>.<locationId|NONE>.<change id>.
func MessageKey(e *cdc.Event) string { return string(AppendMessageKey(nil, e)) }

// AppendMessageKey appends MessageKey's result to dst.
func AppendMessageKey(dst []byte, e *cdc.Event) []byte {
	dst = append(append(dst, "dbchange."...), e.Table...)
	dst = append(append(dst, '.'), e.Op.String()...)
	return append(append(appendOwner(dst, e), '.'), e.ID...)
}

// unixSeconds returns the time of the event, in seconds since 1970 UTC.
func unixSeconds(e *cdc.Event) int64 {
	if e.Timestamp == 0 {
		return e.Clock.Wall / 1_000_000_000
	}
	return e.Timestamp / 1000
}
