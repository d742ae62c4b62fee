package sink

import "github.com/shopmonkeyus/eds/internal/schema"

// MigrateTables migrates tables so that a table that the destination refuses does not affect the
// others. It calls migrate for all tables together. If that fails, it calls migrate for each table
// alone, and returns the refused tables with their errors. It returns err instead if general reports
// that an error does not concern a single table, such as one of the connection.
func MigrateTables(
	tables []*schema.Table, migrate func([]*schema.Table) error, general func(error) bool,
) (refused map[*schema.Table]error, err error) {
	err = migrate(tables)
	if err == nil || general(err) {
		return nil, err
	}
	if len(tables) == 1 {
		return map[*schema.Table]error{tables[0]: err}, nil
	}
	refused = make(map[*schema.Table]error)
	for _, t := range tables {
		if err := migrate([]*schema.Table{t}); err != nil {
			if general(err) {
				return nil, err
			}
			refused[t] = err
		}
	}
	return refused, nil
}
