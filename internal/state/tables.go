package state

import (
	"slices"

	"go.etcd.io/bbolt"
)

// TableList is the key prefix of a list of table names. Each destination has its own list.
type TableList string

// The lists.
const (
	// SourceTables are the tables that HQ is known to have, so a table outside the list is new at
	// HQ.
	SourceTables TableList = "source-tables:"
	// EmptiedTables are the tables whose rows were all deleted, or are known to be lost.
	EmptiedTables TableList = "emptied-tables:"
)

// Tables returns the list l of the destination, sorted, and reports whether SetTables has ever
// recorded that list.
func (d *Dir) Tables(l TableList, at DestinationKey) (names []string, recorded bool, err error) {
	err = d.view(func(tx *bbolt.Tx) (err error) {
		recorded, err = get(tx, bucketValues, string(l)+at.Identity, &names)
		return err
	})
	return names, recorded, err
}

// SetTables replaces the list l of the destination.
func (d *Dir) SetTables(l TableList, at DestinationKey, names []string) error {
	names = slices.Sorted(slices.Values(names))
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketValues, string(l)+at.Identity, names) })
}
