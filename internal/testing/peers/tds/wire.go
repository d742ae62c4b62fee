package tds

import (
	"encoding/binary"
	"errors"
	"io"
	"unicode/utf16"
)

var (
	le = binary.LittleEndian
	be = binary.BigEndian
)

// Message types, from section 2.2.3.1.1 of [MS-TDS].
const (
	messageBatch       = 0x01
	messageRPC         = 0x03
	messageReply       = 0x04
	messageAttention   = 0x06
	messageBulk        = 0x07
	messageTransaction = 0x0E
	messageLogin       = 0x10
	messagePrelogin    = 0x12
)

// readMessage reads all packets of a message, and returns its type and the joined bodies.
func readMessage(r io.Reader) (kind byte, body []byte, err error) {
	for {
		var header [8]byte
		if _, err := io.ReadFull(r, header[:]); err != nil {
			return 0, nil, err
		}
		size := int(be.Uint16(header[2:])) - len(header)
		if size < 0 {
			return 0, nil, errors.New("tds: a packet is shorter than its header")
		}
		start := len(body)
		body = append(body, make([]byte, size)...)
		if _, err := io.ReadFull(r, body[start:]); err != nil {
			return 0, nil, err
		}
		if header[1]&1 != 0 { // end of message
			return header[0], body, nil
		}
	}
}

// writeMessage writes body as a message. A packet has at most size bytes.
func writeMessage(w io.Writer, kind byte, body []byte, size int) error {
	for id := byte(1); ; id++ {
		n := min(len(body), size-8)
		packet := make([]byte, 8, 8+n)
		packet[0], packet[6] = kind, id
		if n == len(body) {
			packet[1] = 1
		}
		be.PutUint16(packet[2:], uint16(n+8))
		if _, err := w.Write(append(packet, body[:n]...)); err != nil {
			return err
		}
		if body = body[n:]; len(body) == 0 {
			return nil
		}
	}
}

// ucs2 returns text in UTF-16, little-endian.
func ucs2(text string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(text)) {
		b = le.AppendUint16(b, u)
	}
	return b
}

func fromUCS2(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = le.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

// shortText returns text in UTF-16, preceded by its length in code units as one byte.
func shortText(text string) []byte {
	b := ucs2(text)
	return append([]byte{byte(len(b) / 2)}, b...)
}

// longText returns text in UTF-16, preceded by its length in code units as two bytes.
func longText(text string) []byte {
	b := ucs2(text)
	return append(le.AppendUint16(nil, uint16(len(b)/2)), b...)
}

// reader reads the parts of a message. If bytes are missing, the field bad becomes true and stays
// true.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return make([]byte, max(0, min(n, 16)))
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uint8() byte       { return r.take(1)[0] }
func (r *reader) uint16() uint16    { return le.Uint16(r.take(2)) }
func (r *reader) uint32() uint32    { return le.Uint32(r.take(4)) }
func (r *reader) uint64() uint64    { return le.Uint64(r.take(8)) }
func (r *reader) text(n int) string { return fromUCS2(r.take(2 * n)) }

// Tokens of answers.

const (
	doneMore  = 0x01
	doneError = 0x02
	doneCount = 0x10
	doneAttn  = 0x20
)

func done(status uint16, rows int64) []byte {
	b := le.AppendUint16([]byte{0xFD}, status)
	return le.AppendUint64(le.AppendUint16(b, 0xC1), uint64(rows))
}

// doneProc returns the tokens that end the answer to a procedure call.
func doneProc(status uint16, rows int64) []byte {
	var b []byte
	if status&doneError == 0 {
		b = le.AppendUint16([]byte{0xFF}, doneMore|doneCount) // DONEINPROC
		b = le.AppendUint64(le.AppendUint16(b, 0xC1), uint64(rows))
		b = append(b, 0x79, 0, 0, 0, 0) // RETURNSTATUS
	}
	b = le.AppendUint16(append(b, 0xFE), status&^doneCount)
	return le.AppendUint64(le.AppendUint16(b, 0xE0), 0)
}

// errorToken returns the token ERROR for e.
func errorToken(e *Error) []byte {
	b := le.AppendUint32(nil, uint32(e.Number))
	b = append(b, e.State, e.Class)
	b = append(b, longText(e.Message)...)
	b = append(b, shortText("double")...)
	b = append(b, shortText("")...)
	b = le.AppendUint32(b, 1)
	return append(le.AppendUint16([]byte{0xAA}, uint16(len(b))), b...)
}

// environment returns the token ENVCHANGE, which reports a change of the session's environment.
func environment(kind byte, now, before []byte) []byte {
	b := append(append([]byte{kind}, now...), before...)
	return append(le.AppendUint16([]byte{0xE3}, uint16(len(b))), b...)
}

const (
	environmentPacketSize = 4
	environmentBegin      = 8
	environmentCommit     = 9
	environmentRollback   = 10
)
