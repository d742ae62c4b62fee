package lint

import "slices"

// Module is the module path of eds.
const Module = "github.com/shopmonkeyus/eds"

// House returns the import rules of the module, from the lowest packages to the highest.
func House() []Rule {
	core := []string{"rawjson", "value", "fault", "cdc", "schema"}
	changes := append(slices.Clone(core), "change")
	sinks := append(slices.Clone(changes), "sink", "sink/encode", "sink/lake")

	// Clients of databases and brokers.
	sql := []string{
		"github.com/jackc/pgx/...", "modernc.org/...", "github.com/go-sql-driver/...", "github.com/microsoft/...",
		"github.com/snowflakedb/...", "github.com/aws/...",
	}
	nats := []string{"github.com/nats-io/..."}
	// Packages that no other package may depend on.
	top := []string{"cli", "supervisor", "devhq/..."}
	// Packages that only tests use.
	tests := []string{
		"sink/sinktest", "testing/golden", "testing/laketest", "testing/lint", "testing/natstest", "testing/peers/...",
		"testing/sqltest",
	}
	destinations := append([]string{"drivers/...", "sink/sqlsink"}, sql...)

	none := []string{}
	never := func(lists ...[]string) []string { return slices.Concat(lists...) }
	ground := never(sql, []string{"database/sql"}, nats, tests, []string{"net/http"})
	middle := never(top, tests, []string{"server", "agent", "reconciler"})

	rules := []Rule{
		// Packages that depend on hardly any other package.
		{Package: "rawjson", Only: none, Never: ground},
		{Package: "value", Only: []string{"rawjson"}, Never: ground},
		{Package: "fault", Only: none, Never: ground},
		{Package: "retry", Only: []string{"fault"}, Never: ground},
		{Package: "cdc", Only: []string{"rawjson", "fault"}, Never: ground},
		{Package: "schema", Only: []string{"rawjson", "fault"}, Never: ground},
		{Package: "continuity", Only: []string{"cdc"}, Never: ground},
		{Package: "change", Only: core, Never: ground},
		{Package: "build", Only: none, Never: ground},
		{Package: "durable", Only: none, Never: ground},
		{Package: "config", Only: []string{"durable"}, Never: ground},
		{Package: "tlshosts", Only: []string{"durable"}, Never: ground},

		// Destinations.
		{Package: "sink/sinktest"},
		{Package: "testing/laketest"},
		{Package: "testing/natstest"},
		{Package: "testing/sqltest"},
		{Package: "sink/sqlsink", Only: append(slices.Clone(sinks), "retry"), Never: never(middle, nats, sql)},
		{Package: "sink", Only: changes, Never: ground},
		{Package: "sink/encode", Only: append(slices.Clone(changes), "sink"), Never: ground},
		// The Parquet library imports net/http.
		{Package: "sink/lake", Only: append(slices.Clone(changes), "sink", "sink/encode"), Never: never(middle, nats, sql)},
		{Package: "drivers/awscredentials", Only: []string{"fault"}, Never: tests},
		{Package: "drivers", Only: []string{"fault", "sink", "drivers/+"}, Never: never(middle, nats)},
		{
			Package: "drivers/...", Only: append(slices.Clone(sinks), "sink/sqlsink", "durable", "drivers/+"), Never: never(middle, nats),
			NeverDirectly: []string{"drivers"},
		},

		// The stream and the snapshot do not depend on any destination.
		{Package: "pipeline", Never: never(middle, nats, destinations, []string{"source/...", "hq", "config"})},
		{
			Package: "tables", Only: append(slices.Clone(changes), "sink", "pipeline", "dlq", "fault", "telemetry"),
			Never: never(middle, nats, destinations, []string{"source/...", "hq", "config", "snapshot"}),
		},
		{Package: "snapshot", Never: never(middle, destinations, []string{"config"})},
		{Package: "source/...", Never: never(middle, destinations, []string{"hq", "config", "snapshot"})},
		{Package: "rules", Never: never(middle, nats, destinations)},
		{Package: "dlq", Only: append(slices.Clone(changes), "durable"), Never: never(middle, nats, sql)},
		{Package: "state", Only: changes, Never: never(middle, nats, sql)},
		{Package: "hq", Never: never(middle, destinations, []string{"pipeline", "snapshot", "source/..."})},
		{Package: "telemetry", Only: []string{"build"}, Never: never(middle, nats, sql)},
		{Package: "verify", Never: never(middle, nats, destinations)},
		{Package: "selfupdate", Never: never(middle, nats, destinations)},

		// The assembled program. It uses destinations only through the list of drivers.
		{Package: "server", Never: never(top, tests), NeverDirectly: never(sql, []string{"database/sql", "drivers/+", "sink/sqlsink"})},
		{Package: "control", Only: []string{"server", "snapshot", "telemetry"}, Never: never(top, tests)},
		{
			Package: "agent", Never: never(top, tests, []string{"server"}),
			NeverDirectly: never(sql, []string{"database/sql", "drivers/+", "sink/sqlsink"}),
		},
		{
			Package: "reconciler", Never: never(top, tests, []string{"server", "agent"}),
			NeverDirectly: never(sql, []string{"database/sql", "drivers/+", "sink/sqlsink"}),
		},
		{
			Package: "doctor", Never: never(top, tests, []string{"server", "agent"}),
			NeverDirectly: never(sql, []string{"database/sql", "drivers/+", "sink/sqlsink"}),
		},
		{
			Package: "devhq/...", Never: never(tests, []string{"cli", "supervisor"}),
			NeverDirectly: never(sql, []string{"database/sql", "drivers/+", "sink/sqlsink"}),
		},
		// The parent process must stay small, so it uses little but the standard library.
		{Package: "supervisor", Only: []string{"fault", "retry", "durable"}, Never: ground},
		{Package: "cli", Never: tests},

		// Programs and packages that are not part of eds.
		{Package: "testing/lint", Only: none},
		{Package: "testing/lint/cross", Only: none},
		{Package: "testing/lint/sample", Only: []string{"testing/lint"}},
		{Package: "testing/peers/..."},
		{Package: "testing/golden", Only: none},
	}
	for i, r := range rules {
		// Never would be better, but client libraries import testing.
		if !slices.Contains(tests, r.Package) {
			rules[i].NeverDirectly = append(slices.Clone(r.NeverDirectly), "testing")
		}
	}
	return rules
}
