package jetstream

import (
	"math"
	"strings"
)

// delivery describes one delivery of a message. The server encodes it in the message's reply
// subject.
type delivery struct {
	sequence uint64 // sequence of the message in the stream
	ordinal  uint64 // number of the delivery, counting all deliveries of the consumer, including redeliveries
	stored   int64  // storage time in Unix nanoseconds
	pending  uint64 // number of later messages for the consumer
}

const ackPrefix = "$JS.ACK."

// parseReply parses the reply subject of a delivered message, which has one of these forms:
//
//	$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>[.<more>]
//
// For any other subject, it returns false.
func parseReply(subject string) (delivery, bool) {
	rest, ok := strings.CutPrefix(subject, ackPrefix)
	if !ok {
		return delivery{}, false
	}
	skip := 2 // stream and consumer
	switch dots := strings.Count(rest, "."); {
	case dots >= 8: // domain and account come first; more tokens may follow at the end
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

// parseNumber parses a number that consists of decimal digits only.
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
