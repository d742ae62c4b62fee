// Package state is the data directory: the only place where eds remembers
// anything besides the destination itself.
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

// fileName is the database in the data directory.
const fileName = "eds.db"

// lockTimeout is how long another eds that is just ending is waited for.
const lockTimeout = 2 * time.Second

// format is the layout of the database; a newer one is not touched.
const format = 1

// The buckets of the database.
var (
	bucketMeta      = []byte("meta")
	bucketSchemas   = []byte("schemas")   // object, version -> Schema as HQ sent it
	bucketSnapshots = []byte("snapshots") // table -> Snapshot
	bucketImport    = []byte("import")    // "job" -> Import, "table/<name>" -> ImportTable, "file/<table>/<name>" -> ImportFile
	bucketPositions = []byte("positions") // consumer -> Settled, and of other destinations, by aside
	bucketEnds      = []byte("ends")      // consumer -> sequences that ended batches, and each destination's, by aside
	bucketOthers    = []byte("others")    // aside of a table -> Snapshot of another destination
	bucketValues    = []byte("values")    // key -> value
)

// ErrInUse says that another process uses the data directory.
var ErrInUse = errors.New("another eds is using it")

// Dir is an open data directory, which no other process uses until it is
// closed. Every change is on disk, whole, when its method returns: after a
// crash it is there or it is not. It is safe for concurrent use.
type Dir struct {
	path  string
	db    *bbolt.DB // nil: there is no database to look at
	looks bool      // nothing is changed
}

// Open opens the data directory at path, which it makes, for its owner alone,
// where it is missing. An error for which errors.Is(err, ErrInUse) means that
// another eds is using it; it is fatal, as is that the state is damaged.
func Open(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find the data directory: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fault.Mark(fault.Fatal, fmt.Errorf("make the data directory: %w", err))
	}
	d := &Dir{path: path}
	if err := d.open(); err != nil {
		return nil, fault.Mark(fault.Fatal, err)
	}
	return d, nil
}

// Exists reports whether path is a data directory.
func Exists(path string) bool {
	_, err := os.Stat(filepath.Join(path, fileName))
	return err == nil
}

// Look opens the data directory at path to look at it, and changes nothing in it:
// while it is open it is locked as after Open. A directory that does not exist looks
// empty. Changes fail, but for SaveSchema, which keeps nothing.
func Look(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find the data directory: %w", err)
	}
	d := &Dir{path: path, looks: true}
	file, err := os.Stat(d.Path(fileName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && file.Size() == 0 {
		return d, nil
	}
	if err := d.open(); err != nil {
		return nil, fault.Mark(fault.Fatal, err)
	}
	return d, nil
}

// Await opens the data directory at path. Where another eds is using it, it calls
// waiting, once, and tries again for as long as one takes that is just ending.
func Await(ctx context.Context, path string, patience time.Duration, waiting func()) (*Dir, error) {
	told := false
	for deadline := time.Now().Add(patience); ; {
		d, err := Open(path)
		if err == nil || !errors.Is(err, ErrInUse) || ctx.Err() != nil || time.Now().After(deadline) {
			return d, err
		}
		if !told {
			told = true
			waiting()
		}
	}
}

func (d *Dir) open() error {
	db, err := openFile(d.Path(fileName), d.looks)
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
	} else if d.looks {
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

// errUnprepared says that the database holds nothing yet.
var errUnprepared = errors.New("the state holds nothing yet")

// openFile opens the database. A damaged one can make bbolt panic, or fault on
// a page that the file does not have.
func openFile(path string, readOnly bool) (db *bbolt.DB, err error) {
	err = guard(func() error {
		var err error
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, ReadOnly: readOnly})
		return err
	})
	return db, err
}

// guard calls f and turns a panic or a memory fault into an error.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return f()
}

// check reads everything once, so that damage shows at the start and not in the
// middle of the work.
func check(db *bbolt.DB) error {
	return db.View(func(tx *bbolt.Tx) error {
		file, err := os.Stat(db.Path())
		if err != nil {
			return err
		}
		if file.Size() < tx.Size() {
			return fmt.Errorf("it has %d bytes, where it should have %d", file.Size(), tx.Size())
		}
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	})
}

// prepare makes the buckets and checks the format.
func (d *Dir) prepare(tx *bbolt.Tx) error {
	for _, name := range [][]byte{bucketMeta, bucketSchemas, bucketSnapshots, bucketImport, bucketPositions, bucketEnds, bucketOthers, bucketValues} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	if tx.Bucket(bucketMeta).Get([]byte("format")) == nil { // it is new
		return errors.Join(put(tx, bucketMeta, "format", format), d.noteReference(tx))
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

// damaged says that the state can't be read, and what can be done.
func (d *Dir) damaged(cause error) error {
	file := d.Path(fileName)
	return fmt.Errorf("the state in %s is damaged (%w): put a copy of it back; or move it away and run eds import again, since without it eds does not know what was imported", file, cause)
}

// Path returns the path of a file in the data directory.
func (d *Dir) Path(elements ...string) string {
	return filepath.Join(append([]string{d.path}, elements...)...)
}

// Close lets others use the data directory.
func (d *Dir) Close() error {
	if d.db == nil {
		return nil
	}
	if err := d.db.Close(); err != nil {
		return fmt.Errorf("close the state: %w", err)
	}
	return nil
}

// update makes one change, durable when it returns.
func (d *Dir) update(change func(tx *bbolt.Tx) error) error {
	if d.looks {
		return fmt.Errorf("write the state in %s: it was opened to look at", d.Path(fileName))
	}
	if err := guard(func() error { return d.db.Update(change) }); err != nil {
		return fmt.Errorf("write the state in %s: %w", d.Path(fileName), err)
	}
	return nil
}

// view reads. Nothing of the transaction may be kept.
func (d *Dir) view(read func(tx *bbolt.Tx) error) error {
	if d.db == nil {
		return nil
	}
	if err := guard(func() error { return d.db.View(read) }); err != nil {
		return fmt.Errorf("read the state in %s: %w", d.Path(fileName), err)
	}
	return nil
}

// get decodes the value of key into out, and reports whether there is one.
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
