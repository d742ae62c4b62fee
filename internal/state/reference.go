package state

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"time"

	"go.etcd.io/bbolt"
)

// referenceFile is the name of the reference server's database. It exists if eds takes over a data
// directory of the reference server.
const referenceFile = "eds-data.db"

// referenceKey is the key in bucketMeta that exists until eds has taken over the import of the
// reference server. It is set only when eds creates its own database in the reference server's data
// directory.
const referenceKey = "reference"

// ReferenceError is a failure to read the database file of the reference server.
type ReferenceError struct {
	Path string
	Err  error
}

func (e *ReferenceError) Error() string {
	return fmt.Sprintf("cannot read in %s when the reference server imported (%v); put back a readable copy, "+
		"or, if that import no longer matters, move the file away", e.Path, e.Err)
}

func (e *ReferenceError) Unwrap() error { return e.Err }

// detectReference sets referenceKey if the data directory holds the database file of the reference
// server.
func (d *Dir) detectReference(tx *bbolt.Tx) error {
	if _, err := os.Lstat(d.Path(referenceFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return put(tx, bucketMeta, referenceKey, true)
}

// HasReference reports whether eds has yet to take over an import of the reference server.
func (d *Dir) HasReference() (pending bool, err error) {
	err = d.view(func(tx *bbolt.Tx) error {
		_, err := get(tx, bucketMeta, referenceKey, &pending)
		return err
	})
	return pending, err
}

// ReferenceTimes returns the times of the snapshots of the reference server's last import, by
// table. It returns no times if that server recorded no import. Each time is the newest time of the
// table's files, so rows from older files may lack earlier changes. The error is a *ReferenceError.
func (d *Dir) ReferenceTimes() (map[string]time.Time, error) {
	path := d.Path(referenceFile)
	times, err := readReferenceFile(path)
	if err != nil {
		return nil, &ReferenceError{path, err}
	}
	return times, nil
}

// FinishReference records the snapshots that the destination takes over from the reference server.
// After that, HasReference returns false.
func (d *Dir) FinishReference(at DestinationKey, snapshots ...ImportRecord) error {
	return d.update(func(tx *bbolt.Tx) error {
		for _, s := range snapshots {
			if err := record(tx, at, s); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Delete([]byte(referenceKey))
	})
}

func readReferenceFile(path string) (map[string]time.Time, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the operator has moved it away
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, errors.Unwrap(err) // the caller adds the path
	case !info.Mode().IsRegular(): // opening it could block for ever
		return nil, errors.New("it is not a file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer f.Close()
	return readReference(f, time.Now())
}

const (
	// exportKey is the key whose value holds the times of the snapshots.
	exportKey = "table-export"
	// maxExport is the maximum length of the value of exportKey, in bytes. Each table takes less
	// than 100 bytes.
	maxExport = 16 << 20
)

// readReference reads a buntdb file, which is a log of commands in the Redis protocol. It returns
// the times in the newest value of exportKey. readReference ignores a truncated command at the end
// of the file, because the command was never completed. However, if the truncated command may be
// the only command for exportKey, readReference returns an error.
func readReference(r io.Reader, now time.Time) (map[string]time.Time, error) {
	log := commandLog{bufio.NewReaderSize(r, 64<<10)}
	var export []byte
	for {
		c, err := log.next()
		switch {
		case errors.Is(err, io.EOF) && (export != nil || !c.mayConcern(exportKey)):
			return parseExport(export, now)
		case errors.Is(err, io.EOF):
			return nil, errors.New("it ends within a command")
		case err != nil:
			return nil, err
		case c.name == "flushdb", c.name == "del" && c.key == exportKey:
			export = nil
		case c.name == "set" && c.key == exportKey:
			export = c.value
		}
	}
}

// parseExport returns the times in a value of exportKey.
func parseExport(text []byte, now time.Time) (map[string]time.Time, error) {
	if text == nil {
		return nil, nil
	}
	var tables []struct {
		Table     string
		Timestamp time.Time
	}
	if err := json.Unmarshal(text, &tables); err != nil {
		return nil, fmt.Errorf("the value of %s is not a list of tables and times", exportKey)
	}
	times := make(map[string]time.Time)
	for _, t := range tables {
		switch {
		case !tableName.MatchString(t.Table):
			return nil, fmt.Errorf("%.100q is not the name of a table", t.Table)
		case t.Timestamp.Before(earliestImport):
			return nil, fmt.Errorf("table %s has no time", t.Table)
		case t.Timestamp.After(now.Add(clockSkew)):
			return nil, fmt.Errorf("the time of table %s, %s, is in the future: check the clock of this machine",
				t.Table, t.Timestamp.UTC().Format(time.RFC3339))
		}
		if known, ok := times[t.Table]; !ok || t.Timestamp.Before(known) {
			times[t.Table] = t.Timestamp
		}
	}
	return times, nil
}

var (
	tableName = regexp.MustCompile(`^[a-z0-9_]{1,255}$`)
	// earliestImport is earlier than the first reference server.
	earliestImport = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
)

// clockSkew is the largest assumed difference between the clocks of two machines.
const clockSkew = 24 * time.Hour

// commandLog reads the commands of a buntdb file one by one. It keeps only the parts that eds
// needs.
type commandLog struct{ r *bufio.Reader }

// logCommand is one command of the log: set key value [ex|ae time], del key, or flushdb. Expiry
// times are ignored: if eds uses an expired value, some changes may be applied again, which is
// harmless.
type logCommand struct {
	begun     bool
	name, key string // "" until read
	value     []byte // only of a set command for exportKey
}

// mayConcern reports whether c, which was truncated, may be a command for key.
func (c logCommand) mayConcern(key string) bool {
	return c.begun && (c.key == key || c.key == "")
}

const (
	maxName  = 16
	maxParts = 5
	// maxLength is the maximum length of a part, in bytes. It fits an int on every platform.
	maxLength = 1 << 30
)

var errNoLog = errors.New("it is not a log of commands")

// next returns the next command. At the end of the file, the error is io.EOF, and the command holds
// the parts that were read before the end.
func (l commandLog) next() (c logCommand, err error) {
	if err := l.skipPadding(); err != nil {
		return c, err
	}
	c.begun = true
	parts, err := l.number('*', maxParts)
	if err != nil {
		return c, err
	}
	for i := range parts {
		length, err := l.number('$', maxLength)
		if err != nil {
			return c, err
		}
		switch {
		case i == 0 && length > maxName:
			return c, errNoLog
		case i == 0:
			var text []byte
			if text, err = l.text(length); err == nil {
				c.name = string(bytes.ToLower(text))
			}
		case i == 1:
			c.key, err = l.keyOf(length)
		case i == 2 && c.key == exportKey && length > maxExport:
			return c, fmt.Errorf("the value of %s has %d bytes", exportKey, length)
		case i == 2 && c.key == exportKey:
			c.value, err = l.text(length)
		default:
			err = l.skip(length)
		}
		if err != nil {
			return c, err
		}
	}
	known := c.name == "flushdb" && parts == 1 || c.name == "del" && parts == 2 ||
		c.name == "set" && (parts == 3 || parts == 5)
	if !known {
		return c, errNoLog
	}
	return c, nil
}

// skipPadding skips NULs, which a file system may leave after a crash.
func (l commandLog) skipPadding() error {
	for {
		b, err := l.r.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			return l.r.UnreadByte()
		}
	}
}

// keyOf reads a key of the given length. If the length differs from that of exportKey, it skips the
// key and returns a placeholder.
func (l commandLog) keyOf(length int) (string, error) {
	if length != len(exportKey) {
		return "another", l.skip(length)
	}
	text, err := l.text(length)
	return string(text), err
}

// number reads a line that consists of the given mark and a decimal number. If the number is
// greater than limit, number returns an error.
func (l commandLog) number(mark byte, limit int) (int, error) {
	line, err := l.r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull), len(line) > 0 && line[0] != mark:
		return 0, errNoLog
	case err != nil:
		return 0, cutOff(err)
	case len(line) < 4 || line[len(line)-2] != '\r':
		return 0, errNoLog
	}
	n := 0
	for _, digit := range line[1 : len(line)-2] {
		if digit < '0' || digit > '9' {
			return 0, errNoLog
		}
		if n = n*10 + int(digit-'0'); n > limit {
			return 0, errNoLog
		}
	}
	return n, nil
}

// text reads and returns a part of the command. The length is in bytes.
func (l commandLog) text(length int) ([]byte, error) {
	text := make([]byte, length)
	if _, err := io.ReadFull(l.r, text); err != nil {
		return nil, cutOff(err)
	}
	return text, l.end()
}

// skip reads and discards a part of the command. The length is in bytes.
func (l commandLog) skip(length int) error {
	if _, err := l.r.Discard(length); err != nil {
		return cutOff(err)
	}
	return l.end()
}

// end reads the CRLF after a part.
func (l commandLog) end() error {
	for _, want := range []byte("\r\n") {
		b, err := l.r.ReadByte()
		if err != nil {
			return cutOff(err)
		}
		if b != want {
			return errNoLog
		}
	}
	return nil
}

// cutOff converts io.ErrUnexpectedEOF, which means that the file ends within a command, to io.EOF.
func cutOff(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}
