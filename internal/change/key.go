package change

import (
	"bytes"
	"encoding/binary"
	"math/big"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// AppendKey appends a canonical form of one key column's raw value to dst, such
// that values that a database holds for equal have equal forms and a sequence of
// forms is unambiguous: strings by their text, numbers by their value.
func AppendKey(dst, raw []byte) []byte {
	kind, text := byte('v'), raw
	switch {
	case rawjson.IsString(raw):
		kind, text = 's', rawjson.Text(raw)
	case len(raw) > 0 && (raw[0] == '-' || raw[0]-'0' <= 9):
		kind, text = 'n', canonicalNumber(raw)
	}
	dst = append(dst, kind)
	dst = binary.AppendUvarint(dst, uint64(len(text)))
	return append(dst, text...)
}

// canonicalNumber returns one spelling for every number of one value. Plain
// integers, all that a sane key holds, are their own.
func canonicalNumber(raw []byte) []byte {
	if string(raw) == "-0" {
		return raw[1:]
	}
	if !bytes.ContainsAny(raw, ".eE") || len(raw) > 64 {
		return raw
	}
	exponent := bytes.IndexAny(raw, "eE")
	if exponent >= 0 && len(raw)-exponent > 5 { // 1e99999 stays as it is written
		return raw
	}
	if r, ok := new(big.Rat).SetString(string(raw)); ok {
		return []byte(r.RatString())
	}
	return raw
}
