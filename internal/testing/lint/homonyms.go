package lint

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"path"
	"slices"
	"strings"
)

// CheckHomonyms returns one line for each type name that several packages of the program declare.
// It ignores case, and skips the names in sharedTypes.
func CheckHomonyms(files []File) []string {
	packages := make(map[string][]string) // directories by lower-case name of a type
	for _, f := range files {
		dir := path.Dir(f.Path)
		if f.Test() || !strings.HasPrefix(f.Path, "internal/") || strings.HasPrefix(f.Path, "internal/testing/") {
			continue
		}
		for _, decl := range f.AST.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.TYPE {
				continue
			}
			for _, spec := range d.Specs {
				name := strings.ToLower(spec.(*ast.TypeSpec).Name.Name)
				if !slices.Contains(packages[name], dir) { // a type may have one file per platform
					packages[name] = append(packages[name], dir)
				}
			}
		}
	}
	shared := sharedTypes()
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		if dirs := packages[name]; len(dirs) > 1 && shared[name] == "" {
			slices.Sort(dirs)
			problems = append(problems, fmt.Sprintf("%s is a type of %s: give each a name of its own, or list it in sharedTypes",
				name, strings.Join(dirs, ", ")))
		}
	}
	return problems
}

// sharedTypes returns the names that several packages may declare as types, because they have the
// same meaning in each.
func sharedTypes() map[string]string {
	return map[string]string{
		"config":      "the parsed settings of the package's main type",
		"options":     "the arguments of the package's constructor",
		"error":       "the package's error with details",
		"plan":        "the intended steps of the package's operation",
		"report":      "the result of the package's operation, or the state of its main type",
		"tablereport": "the part of a report about one table",
		"state":       "the state of the package's main type",
		"status":      "a view of the package's main type at one moment",
		"client":      "a client of the package's server",
		"usageerror":  "wrong usage of the command line",
		"lookup":      "a function that finds an environment variable",

		"source":         "a stream of messages: the pipeline's interface and its implementation",
		"sink":           "a destination: sink.Sink, parts of it that callers need, and implementations",
		"rules":          "selection of changes: the pipeline's interface and its implementation",
		"reconciler":     "the agent's interface of reconciler.Reconciler",
		"controlchannel": "hq.ControlChannel and the agent's interface of it",
		"importrequest":  "a request for an import: the operator's, and the reconciler's",
		"verification":   "an alias of reconciler.Verification",

		"session":       "a run of a server, as HQ and its clients describe it",
		"sessiondriver": "the destination of a session",
		"envelope":      "the wrapper of HQ's responses",
		"exportrequest": "the body of HQ's call that starts an export",
		"exporttable":   "the state of one table of an export",
		"exportfile":    "one file of an export",

		"dialect":         "sqlsink.Dialect and its implementations",
		"transaction":     "sqlsink.Tx of a SQL driver",
		"sqlsession":      "sqlsink.Conn of a SQL driver",
		"driverconn":      "the connection of a vendor's database/sql driver",
		"servererror":     "an error from the database of a SQL driver",
		"resultrow":       "a row of a query's result",
		"relation":        "a SQL driver's knowledge of a table",
		"attribute":       "a SQL driver's knowledge of a column",
		"columnencoder":   "a SQL driver's encoder of one column's values",
		"kind":            "the form in which a SQL driver sends a column's values",
		"tablestatements": "a SQL driver's statements for one layout",
	}
}
