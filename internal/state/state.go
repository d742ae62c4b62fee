// Package state reads and writes the data directory. Only the data directory and the destination
// itself hold state of eds.
package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// fileName is the name of the database file in the data directory.
const fileName = "eds.db"

// lockTimeout is how long Open waits for another eds to release the data directory.
const lockTimeout = 2 * time.Second

// format is the version of the database layout. eds does not open a database with a newer format.
const format = 1

// The buckets of the database.
var (
	bucketMeta      = []byte("meta")
	bucketSchemas   = []byte("schemas")   // object, version -> schema as sent by HQ
	bucketSnapshots = []byte("snapshots") // table -> ImportRecord
	bucketImport    = []byte("import")    // "job" -> Import, "table/<name>" -> ImportTable, "file/<table>/<name>" -> ImportFile
	bucketPositions = []byte("positions") // consumer -> Settled; otherKey -> Settled of another destination
	bucketEnds      = []byte("ends")      // consumer or otherKey -> batch boundaries
	bucketOthers    = []byte("others")    // otherKey of a table -> ImportRecord of another destination
	bucketValues    = []byte("values")    // key -> value
)

// ErrInUse reports that another process uses the data directory.
var ErrInUse = errors.New("another eds is using it")

// Dir is an open data directory. No other process can use the directory until Close. Each method
// that changes the state is atomic, and its change is durable when the method returns. Dir is safe
// for concurrent use.
type Dir struct {
	path     string
	db       *bbolt.DB // nil if opened read-only without a database
	readOnly bool
}

// Open opens the data directory at path. If the directory is missing, Open creates it with access
// for its owner only. If another eds uses the directory, the error wraps ErrInUse. That error is
// fatal, and so is the error for damaged state.
func Open(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find the data directory: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fault.Mark(fault.Fatal, fmt.Errorf("create the data directory: %w", err))
	}
	d := &Dir{path: path}
	if err := d.open(); err != nil {
		return nil, fault.Mark(fault.Fatal, err)
	}
	return d, nil
}

// Exists reports whether path is a data directory that contains a database.
func Exists(path string) bool {
	_, err := os.Stat(filepath.Join(path, fileName))
	return err == nil
}

// Look opens the data directory at path read-only. While it is open, the directory is locked as
// after Open. A directory without a database appears empty. Methods that change the state fail,
// except SaveSchema, which then does nothing.
func Look(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find the data directory: %w", err)
	}
	d := &Dir{path: path, readOnly: true}
	file, err := os.Stat(d.Path(fileName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && file.Size() == 0 {
		return d, nil
	}
	if err := d.open(); err != nil {
		return nil, fault.Mark(fault.Fatal, err)
	}
	return d, nil
}

// Await opens the data directory at path. If another eds uses the directory, Await calls waiting()
// once, and then retries for the duration in the parameter patience, or until ctx ends. Each
// attempt waits up to lockTimeout.
func Await(ctx context.Context, path string, patience time.Duration, waiting func()) (*Dir, error) {
	waits := false
	for deadline := time.Now().Add(patience); ; {
		d, err := Open(path)
		if err == nil || !errors.Is(err, ErrInUse) || ctx.Err() != nil || time.Now().After(deadline) {
			return d, err
		}
		if !waits {
			waits = true
			waiting()
		}
	}
}

func (d *Dir) open() error {
	db, err := openFile(d.Path(fileName), d.readOnly)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("open the data directory %s: %w; stop that one first, or choose another with --data-dir", d.path, ErrInUse)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("open the data directory %s: %w", d.path, err)
	case err != nil:
		return d.damaged(err)
	}
	d.db = db
	if err = guard(func() error { return check(db) }); err != nil {
		err = d.damaged(err)
	} else if d.readOnly {
		err = d.view(checkFormat)
	} else {
		err = d.update(d.prepare)
	}
	if errors.Is(err, errUnprepared) {
		d.db, err = nil, nil
		return db.Close()
	}
	if err != nil {
		return errors.Join(err, db.Close())
	}
	return nil
}

// errUnprepared reports that the database has no buckets yet.
var errUnprepared = errors.New("the state is empty")

// openFile opens the database. If the file is damaged, bbolt can panic, or can fault on a page that
// the file does not have. openFile returns such a panic or fault as an error.
func openFile(path string, readOnly bool) (db *bbolt.DB, err error) {
	err = guard(func() error {
		var err error
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, ReadOnly: readOnly})
		return err
	})
	return db, err
}

// guard calls f, and converts a panic or a memory fault into an error.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return f()
}

// check reads the whole database once, so that damage is found when the directory is opened.
func check(db *bbolt.DB) error {
	return db.View(func(tx *bbolt.Tx) error {
		file, err := os.Stat(db.Path())
		if err != nil {
			return err
		}
		if file.Size() < tx.Size() {
			return fmt.Errorf("it has %d bytes and should have %d", file.Size(), tx.Size())
		}
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	})
}

// prepare creates the missing buckets, and checks or records the format.
func (d *Dir) prepare(tx *bbolt.Tx) error {
	for _, name := range [][]byte{
		bucketMeta, bucketSchemas, bucketSnapshots, bucketImport, bucketPositions, bucketEnds, bucketOthers, bucketValues,
	} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	if tx.Bucket(bucketMeta).Get([]byte("format")) == nil { // the database is new
		return errors.Join(put(tx, bucketMeta, "format", format), d.detectReference(tx))
	}
	return checkFormat(tx)
}

func checkFormat(tx *bbolt.Tx) error {
	if tx.Bucket(bucketMeta) == nil {
		return errUnprepared
	}
	var found int
	if _, err := get(tx, bucketMeta, "format", &found); err != nil {
		return err
	}
	if found > format {
		return errors.New("the state was written by a newer version of eds; use that version")
	}
	return nil
}

// damaged returns an error that says that the state cannot be read, with the given cause. The error
// also names the remedies.
func (d *Dir) damaged(cause error) error {
	file := d.Path(fileName)
	return fmt.Errorf("the state in %s is damaged (%w): put back a copy of it; or move it away and run eds import again, "+
		"because without it eds does not know which tables were imported", file, cause)
}

// Path returns the absolute path of a file or directory within the data directory.
func (d *Dir) Path(elements ...string) string {
	return filepath.Join(append([]string{d.path}, elements...)...)
}

// Close releases the data directory for other processes.
func (d *Dir) Close() error {
	if d.db == nil {
		return nil
	}
	if err := d.db.Close(); err != nil {
		return fmt.Errorf("close the state: %w", err)
	}
	return nil
}

// update runs the given callback in one transaction, which is durable when update returns. If the
// directory was opened read-only, update fails.
func (d *Dir) update(change func(tx *bbolt.Tx) error) error {
	if d.readOnly {
		return fmt.Errorf("write the state in %s: it was opened read-only", d.Path(fileName))
	}
	if err := guard(func() error { return d.db.Update(change) }); err != nil {
		return fmt.Errorf("write the state in %s: %w", d.Path(fileName), err)
	}
	return nil
}

// view runs the given callback in a read-only transaction. If there is no database, view does
// nothing. The callback must not keep references to data of the transaction.
func (d *Dir) view(read func(tx *bbolt.Tx) error) error {
	if d.db == nil {
		return nil
	}
	if err := guard(func() error { return d.db.View(read) }); err != nil {
		return fmt.Errorf("read the state in %s: %w", d.Path(fileName), err)
	}
	return nil
}

// get decodes the value of the given key into the variable that out points to, and reports whether
// there is a value.
func get(tx *bbolt.Tx, bucket []byte, key string, out any) (bool, error) {
	text := tx.Bucket(bucket).Get([]byte(key))
	if text == nil {
		return false, nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return false, fmt.Errorf("decode %s %q: %w", bucket, key, err)
	}
	return true, nil
}

func put(tx *bbolt.Tx, bucket []byte, key string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s %q: %w", bucket, key, err)
	}
	return tx.Bucket(bucket).Put([]byte(key), text)
}
