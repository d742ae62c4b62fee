package jetstream

import (
	"math"
	"testing"

	"github.com/nats-io/nats.go"
)

func TestParseReply_ReadsBothForms(t *testing.T) {
	want := delivery{sequence: 7, ordinal: 3, stored: 1712345678901234567, pending: 42}
	for _, subject := range []string{
		"$JS.ACK.dbchange.eds-1.2.7.3.1712345678901234567.42",
		"$JS.ACK.hub.ACC0UNT.dbchange.eds-1.2.7.3.1712345678901234567.42",
		"$JS.ACK._.ACC0UNT.dbchange.eds-1.2.7.3.1712345678901234567.42.r4nd0m",
	} {
		if got, ok := parseReply(subject); !ok || got != want {
			t.Errorf("%s: %+v, %v", subject, got, ok)
		}
	}
}

func TestParseReply_RefusesOtherSubjects(t *testing.T) {
	for _, subject := range []string{
		"", "_INBOX.x", "$JS.ACK.", "$JS.ACK.dbchange.eds-1.2.7.3.17", "$JS.ACK.dbchange.eds-1.2.7.3.17.",
		"$JS.ACK.dbchange.eds-1.2.x.3.17.42", "$JS.ACK.dbchange.eds-1.2.0.3.17.42", "$JS.ACK.dbchange.eds-1.2.-7.3.17.42",
		"$JS.ACK.dbchange.eds-1.2.7.3.99999999999999999999.42",
		"$JS.ACK.dbchange.eds-1.2.18446744073709551616.3.17.42", "$JS.ACK.dbchange.eds-1.2.7.3.17.42.x", "$JS.ACK.a.b.c.d.e.f.g.h.i",
	} {
		if got, ok := parseReply(subject); ok {
			t.Errorf("%q: %+v", subject, got)
		}
	}
}

func TestParseReply_AllocatesNothing(t *testing.T) {
	subject := "$JS.ACK.dbchange.eds-1.2.7.3.1712345678901234567.42"
	if n := testing.AllocsPerRun(100, func() { parseReply(subject) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParseReply compares parseReply with the client library's parser, which is more lenient.
func FuzzParseReply(f *testing.F) {
	f.Add("$JS.ACK.dbchange.eds-1.2.7.3.1712345678901234567.42")
	f.Add("$JS.ACK._.ACC0UNT.dbchange.eds-1.2.7.3.1712345678901234567.42.r4nd0m")
	f.Add("$JS.ACK.a.b.c.d.e.f.g.h.i")
	f.Fuzz(func(t *testing.T, subject string) {
		got, ok := parseReply(subject)
		if !ok {
			return
		}
		meta, err := (&nats.Msg{Reply: subject, Sub: &nats.Subscription{}}).Metadata()
		if err != nil {
			t.Fatalf("%q: %+v, the library says %v", subject, got, err)
		}
		want := delivery{meta.Sequence.Stream, meta.Sequence.Consumer, meta.Timestamp.UnixNano(), meta.NumPending}
		// The library reads numbers as signed integers.
		if got != want && got.sequence <= math.MaxInt64 && got.ordinal <= math.MaxInt64 && got.pending <= math.MaxInt64 {
			t.Fatalf("%q: %+v, the library says %+v", subject, got, want)
		}
	})
}
