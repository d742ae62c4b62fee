package reconciler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// AcceptGap records that the operator accepts the gap with the given id, which is a
// sink.TableState.GapID. The tables of the gap remain incomplete, but no longer cause alerts. If
// table is not "", AcceptGap accepts the gap of that table only. It returns the names of the tables
// whose gap it accepted.
func (r *Reconciler) AcceptGap(id, table string) (tables []string, err error) {
	set := r.currentTables()
	if set == nil {
		return gapTables(nil, id, table)
	}
	if tables, err = gapTables(set.States(), id, table); err == nil {
		set.Accept(tables)
	}
	return tables, err
}

// gapTables returns the sorted names of the tables of the gap with the given id. If table is not
// "", it returns only that table. If the gap or the table does not exist, the error names the
// existing ones.
func gapTables(states []sink.TableState, id, table string) ([]string, error) {
	var known, all []string
	for i := range states {
		gap := states[i].GapID()
		if gap == "" {
			continue
		}
		known = append(known, fmt.Sprintf("%s (table %s)", gap, states[i].Table))
		if gap == id {
			all = append(all, states[i].Table)
		}
	}
	slices.Sort(all)
	switch {
	case len(known) == 0:
		return nil, fmt.Errorf("there is no gap %q: no table is incomplete", id)
	case len(all) == 0:
		return nil, fmt.Errorf("there is no gap %q; the gaps are %s", id, strings.Join(known, ", "))
	case table == "":
		return all, nil
	case !slices.Contains(all, table):
		return nil, fmt.Errorf("table %q is not in the gap %s; its tables are %s", table, id, strings.Join(all, ", "))
	}
	return []string{table}, nil
}
