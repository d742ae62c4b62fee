package jetstream

import (
	"math"
	"strings"
)

// delivery describes a message; the server puts it into the reply subject.
type delivery struct {
	sequence uint64 // in the stream
	ordinal  uint64 // among the consumer's deliveries, redeliveries included
	stored   int64  // nanoseconds since 1970
	pending  uint64 // messages of the consumer after it
}

const ackPrefix = "$JS.ACK."

// parseReply reads the reply subject of a delivered message. It has one of the forms
//
//	$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>[.<more>]
//
// For another subject, it returns false.
func parseReply(subject string) (delivery, bool) {
	rest, ok := strings.CutPrefix(subject, ackPrefix)
	if !ok {
		return delivery{}, false
	}
	skip := 2 // stream and consumer
	switch dots := strings.Count(rest, "."); {
	case dots >= 8: // domain and account come first; there may be more at the end
		skip = 4
	case dots != 6:
		return delivery{}, false
	}
	for range skip {
		if _, rest, ok = strings.Cut(rest, "."); !ok {
			return delivery{}, false
		}
	}
	var numbers [5]uint64
	for i := range numbers {
		var token string
		token, rest, ok = strings.Cut(rest, ".")
		if !ok && i < len(numbers)-1 {
			return delivery{}, false
		}
		if numbers[i], ok = parseNumber(token); !ok {
			return delivery{}, false
		}
	}
	if numbers[1] == 0 || numbers[3] > math.MaxInt64 {
		return delivery{}, false
	}
	return delivery{numbers[1], numbers[2], int64(numbers[3]), numbers[4]}, true
}

// parseNumber reads decimal digits.
func parseNumber(digits string) (uint64, bool) {
	if digits == "" || len(digits) > 20 {
		return 0, false
	}
	var n uint64
	for i := range len(digits) {
		d := uint64(digits[i] - '0')
		if d > 9 || n > (math.MaxUint64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}
