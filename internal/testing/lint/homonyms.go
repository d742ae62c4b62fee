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
		"config":  "the parsed settings of the package's main type",
		"options": "the arguments of the package's constructor",
		"error":   "the package's error with details",
	}
}
