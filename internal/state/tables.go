package state

import (
	"slices"

	"go.etcd.io/bbolt"
)

// TableList names a list of tables that is kept per destination.
type TableList string

// The lists.
const (
	// SourceTables are the tables that are not new at HQ.
	SourceTables TableList = "source-tables:"
	// EmptiedTables are the tables whose rows were all deleted, or are known to be lost.
	EmptiedTables TableList = "emptied-tables:"
)

// Tables returns a sorted list, and whether SetTables has ever recorded it.
func (d *Dir) Tables(l TableList, at Destination) (names []string, recorded bool, err error) {
	err = d.view(func(tx *bbolt.Tx) (err error) {
		recorded, err = get(tx, bucketValues, string(l)+at.Identity, &names)
		return err
	})
	return names, recorded, err
}

// SetTables replaces a list.
func (d *Dir) SetTables(l TableList, at Destination, names []string) error {
	names = slices.Sorted(slices.Values(names))
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketValues, string(l)+at.Identity, names) })
}
