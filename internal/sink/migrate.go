package sink

import "github.com/shopmonkeyus/eds/internal/schema"

// MigrateTables migrates tables so that a refused table does not affect the others. It calls the
// callback migrate once with all tables. If that call fails, it calls migrate for each table
// separately, and returns each table that failed, together with its error. If the callback general
// reports that an error, such as a connection error, does not concern a single table,
// MigrateTables stops and also returns that error, as err.
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
				return refused, err
			}
			refused[t] = err
		}
	}
	return refused, nil
}
