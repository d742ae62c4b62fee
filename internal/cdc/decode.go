package cdc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/klauspost/compress/gzip"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

const (
	// MaxPayload is the maximum size of a stream message or a snapshot row, in bytes of JSON.
	MaxPayload = 64 << 20
	// LargePayload is the size above which a payload counts as large, in bytes of JSON.
	LargePayload = 1 << 20
)

var errTooLarge = fmt.Errorf("the message is larger than %d MiB of json", MaxPayload>>20)

// Decoder decodes events. It is not safe for concurrent use; create one per goroutine.
type Decoder struct {
	// Members makes Decode record the members of the new row image, so that splitting the row into
	// columns does not have to find them again.
	Members bool
	// Large, if not nil, is called before memory is allocated for a payload whose decompressed
	// size is more than LargePayload. Its argument is that size in bytes. If Large returns an
	// error, Decode and Text return that error.
	Large func(size int) error

	interned map[string]string
	gzip     *gzip.Reader
	scratch  []byte // memory for decompressing payloads of up to LargePayload bytes
	slab     []rawjson.Member
}

const (
	// slabMembers is the number of members that are allocated at once.
	slabMembers = 4096
	// maxMembers is the maximum number of members that are recorded for a row. No table has that
	// many columns.
	maxMembers = 1 << 16
)

// NewDecoder returns a Decoder.
func NewDecoder() *Decoder { return &Decoder{interned: make(map[string]string)} }

// Decode decodes one payload into e; only e.Position is left unchanged. The content encoding is ""
// or "json" for JSON, "gzip/json", or "msgpack". The event may refer to the memory of payload. If
// there is an error, the payload can never be decoded. The error quotes no value of a row.
func (d *Decoder) Decode(e *Event, payload []byte, encoding string) error {
	text, err := d.Text(payload, encoding)
	if err != nil {
		return err
	}
	return d.decodeJSON(e, text)
}

// Text returns a payload with the given content encoding as JSON text. The text has at most
// MaxPayload bytes.
func (d *Decoder) Text(payload []byte, encoding string) ([]byte, error) {
	switch encoding {
	case "", "json", "application/json":
		if len(payload) > MaxPayload {
			return nil, errTooLarge
		}
		return payload, nil
	case "gzip/json":
		text, err := d.gunzip(payload)
		return text, describe("decompress the payload", err)
	case "msgpack":
		text, err := d.transcode(payload)
		return text, describe("not valid msgpack", err)
	default:
		return nil, fmt.Errorf("unknown content-encoding %.40q", encoding)
	}
}

// describe adds a description to err. It returns nil and errTooLarge unchanged.
func describe(what string, err error) error {
	if err == nil || errors.Is(err, errTooLarge) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}

// gunzip decompresses a payload. It decompresses a large payload twice: first to measure the size,
// before any memory is allocated for the result, and then into that memory. It does not use the
// size in the gzip trailer, because that size cannot be trusted.
func (d *Decoder) gunzip(payload []byte) ([]byte, error) {
	if err := d.rewind(payload); err != nil {
		return nil, err
	}
	size, more, err := fill(d.gzip, d.buffer())
	if err == nil && !more {
		return bytes.Clone(d.scratch[:size]), nil
	}
	for more && err == nil && size <= MaxPayload {
		var n int
		n, more, err = fill(d.gzip, d.scratch)
		size += n
	}
	if err == nil {
		err = d.admit(size)
	}
	if err == nil {
		err = d.rewind(payload)
	}
	if err != nil {
		return nil, err
	}
	text := make([]byte, size)
	_, _, err = fill(d.gzip, text)
	return text, err
}

func (d *Decoder) rewind(payload []byte) (err error) {
	if d.gzip != nil {
		err = d.gzip.Reset(bytes.NewReader(payload))
	} else {
		d.gzip, err = gzip.NewReader(bytes.NewReader(payload))
	}
	if err != nil {
		d.gzip = nil
	}
	return err
}

// fill reads until b is full or r ends, and reports whether r may have more data.
func fill(r io.Reader, b []byte) (n int, more bool, err error) {
	for n < len(b) {
		m, err := r.Read(b[n:])
		n += m
		if err == io.EOF {
			return n, false, nil
		}
		if err != nil {
			return n, false, err
		}
	}
	return n, true, nil
}

// buffer returns a reusable slice with a length of LargePayload+1 bytes. The capacity also has
// space for the JSON form of another piece of msgpack.
func (d *Decoder) buffer() []byte {
	if d.scratch == nil {
		d.scratch = make([]byte, LargePayload+1, LargePayload+8*pieceSize)
	}
	return d.scratch
}

// admit decides whether a payload may use size bytes of memory. It may block until the memory is
// available.
func (d *Decoder) admit(size int) error {
	switch {
	case size > MaxPayload:
		return errTooLarge
	case size > LargePayload && d.Large != nil:
		return d.Large(size)
	}
	return nil
}

func (d *Decoder) decodeJSON(e *Event, text []byte) error {
	m, err := rawjson.OpenObject(text)
	if err != nil {
		return err
	}
	*e = Event{Position: e.Position, Payload: text}
	for m.NextName() {
		name := m.Name()
		if d.Members && string(name) == "after" && m.AtObject() {
			if !d.after(e, &m) {
				break
			}
			continue
		}
		if !m.SkipValue() {
			break
		}
		if err := d.member(e, name, m.Value()); err != nil {
			return fmt.Errorf("member %.40q: %w", name, err)
		}
	}
	if err := m.Err(); err != nil {
		return err
	}
	e.Compact = !m.Spaced()
	switch {
	case e.Table == "":
		return errors.New("the event names no table")
	case e.Op == 0:
		return errors.New("the event has no operation")
	}
	return nil
}

// after reads the new row image and records the spans of its members. It reports whether decoding
// can continue.
func (d *Decoder) after(e *Event, m *rawjson.Members) bool {
	if cap(d.slab)-len(d.slab) < 128 {
		d.slab = make([]rawjson.Member, 0, slabMembers)
	}
	members, ok := m.Object(d.slab[len(d.slab):], maxMembers)
	if !ok {
		return false
	}
	e.After = m.Value()
	if members == nil { // too many
		return true
	}
	e.Members = members[:len(members):len(members)]
	if len(d.slab)+len(members) <= cap(d.slab) { // otherwise Object has grown members into a new array outside the slab
		d.slab = d.slab[:len(d.slab)+len(members)]
	}
	return true
}

func (d *Decoder) member(e *Event, name, value []byte) error {
	if rawjson.IsNull(value) {
		return nil
	}
	var err error
	switch string(name) {
	case "operation":
		e.Op, err = ParseOp(rawjson.Text(value))
	case "id":
		e.ID = string(rawjson.Text(value))
	case "table":
		e.Table, err = d.internString(value)
	case "modelVersion":
		e.ModelVersion = d.intern(rawjson.Text(value))
	case "companyId":
		e.CompanyID = d.intern(rawjson.Text(value))
	case "locationId":
		e.LocationID = d.intern(rawjson.Text(value))
	case "userId":
		e.UserID = d.intern(rawjson.Text(value))
	case "key":
		e.Key, err = array(value)
	case "diff":
		e.Diff, err = array(value)
	case "before":
		e.Before, err = object(value)
	case "after":
		e.After, err = object(value)
	case "timestamp":
		e.Timestamp, err = millis(rawjson.Text(value))
	case "mvccTimestamp":
		e.MVCC = string(rawjson.Text(value))
		if e.MVCC != "" {
			e.Clock, err = ParseTimestamp(e.MVCC)
		}
	case "imported":
		e.Imported = string(value) == "true"
	}
	return err
}

func array(value []byte) ([]byte, error) {
	if value[0] != '[' {
		return nil, errors.New("it is not an array")
	}
	if len(bytes.TrimSpace(value[1:len(value)-1])) == 0 {
		return nil, nil
	}
	return value, nil
}

func object(value []byte) ([]byte, error) {
	if value[0] != '{' {
		return nil, errors.New("it is not an object")
	}
	return value, nil
}

// millis parses a number of Unix milliseconds. Senders that count in floats may write a fraction
// or an exponent. A fraction is dropped: no precision is needed, because the order of events
// depends on their clocks.
func millis(text []byte) (int64, error) {
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		return n, nil
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || math.Abs(f) > math.MaxInt64/2 {
		return 0, errors.New("it is not a number of milliseconds")
	}
	return int64(f), nil
}

func (d *Decoder) internString(value []byte) (string, error) {
	if !rawjson.IsString(value) {
		return "", errors.New("it is not a string")
	}
	return d.intern(rawjson.Text(value)), nil
}

// maxInterned is the maximum number of interned strings.
const maxInterned = 4096

// intern returns text as a string, and returns the same string for equal texts to save memory. A
// stream repeats the same few tables, versions, companies and users.
func (d *Decoder) intern(text []byte) string {
	if s, ok := d.interned[string(text)]; ok {
		return s
	}
	s := string(text)
	if len(s) > 256 {
		return s
	}
	if len(d.interned) >= maxInterned {
		clear(d.interned)
	}
	d.interned[s] = s
	return s
}
