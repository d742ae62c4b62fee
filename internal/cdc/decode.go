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

// MaxPayload bounds a decompressed payload, in bytes.
const MaxPayload = 256 << 20

// Decoder decodes events. It is not safe for concurrent use; make one a goroutine.
type Decoder struct {
	// Members asks that events hold those of their new row image, which whoever
	// splits rows into columns would have to look for again.
	Members bool

	interned map[string]string
	gzip     *gzip.Reader
	slab     []rawjson.Member
}

// slabMembers is how many members are allocated at once.
const slabMembers = 4096

// NewDecoder returns a Decoder.
func NewDecoder() *Decoder { return &Decoder{interned: make(map[string]string)} }

// Decode decodes one payload into e, whose Position it leaves alone. The
// content-encoding is "" or "json" for JSON, "gzip/json", or "msgpack". The
// event keeps payload's memory. An error means that the payload can never be
// decoded; it names no value of a row.
func (d *Decoder) Decode(e *Event, payload []byte, encoding string) error {
	text, err := d.Text(payload, encoding)
	if err != nil {
		return err
	}
	return d.decodeJSON(e, text)
}

// Text returns a payload of the given content-encoding as JSON text.
func (d *Decoder) Text(payload []byte, encoding string) ([]byte, error) {
	switch encoding {
	case "", "json", "application/json":
		return payload, nil
	case "gzip/json":
		return d.gunzip(payload)
	case "msgpack":
		return msgpackToJSON(payload)
	default:
		return nil, fmt.Errorf("unknown content-encoding %.40q", encoding)
	}
}

func (d *Decoder) gunzip(payload []byte) ([]byte, error) {
	var err error
	if d.gzip == nil {
		d.gzip, err = gzip.NewReader(bytes.NewReader(payload))
	} else {
		err = d.gzip.Reset(bytes.NewReader(payload))
	}
	if err != nil {
		d.gzip = nil
		return nil, fmt.Errorf("decompress the payload: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(d.gzip, MaxPayload+1))
	if err != nil {
		return nil, fmt.Errorf("decompress the payload: %w", err)
	}
	if len(text) > MaxPayload {
		return nil, fmt.Errorf("decompress the payload: it is larger than %d bytes", MaxPayload)
	}
	return text, nil
}

func (d *Decoder) decodeJSON(e *Event, text []byte) error {
	if len(text) > math.MaxUint32 {
		return errors.New("the payload is larger than 4 GiB")
	}
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

// after reads the new row image and remembers where its members stand, so that
// nobody has to read it again.
func (d *Decoder) after(e *Event, m *rawjson.Members) bool {
	if cap(d.slab)-len(d.slab) < 128 {
		d.slab = make([]rawjson.Member, 0, slabMembers)
	}
	members, ok := m.Object(d.slab[len(d.slab):])
	if !ok {
		return false
	}
	e.After, e.Members = m.Value(), members[:len(members):len(members)]
	if len(d.slab)+len(members) <= cap(d.slab) { // else they moved to memory of their own
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

// millis reads unix milliseconds. Senders that count in floats write a fraction
// or an exponent, which the event's own clock makes irrelevant.
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

// maxInterned bounds the memory that names from the stream can pin.
const maxInterned = 4096

// intern returns text as a string, the same one each time, because a stream
// repeats few tables, versions, companies and users.
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
