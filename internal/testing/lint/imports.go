// Package lint provides checks that tests run on the code of the module. The checks concern the
// direction of imports, access to the environment of the process, forbidden constructs, and the
// language of comments and documents.
package lint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// Package is a package as "go list" describes it.
type Package struct {
	ImportPath string
	Imports    []string // direct imports, without imports of tests
	Deps       []string // direct and indirect imports
	DepsErrors []struct{ Err string }
}

// Packages returns the packages of the module whose root is dir.
func Packages(ctx context.Context, dir string) ([]Package, error) {
	list := exec.CommandContext(ctx, "go", "list", "-e", "-buildvcs=false", "-json=ImportPath,Imports,Deps,DepsErrors", "./...")
	list.Dir = dir
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w: %s", err, stderr.String())
	}
	var packages []Package
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p Package
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, fmt.Errorf("list the packages: %w", err)
		}
		packages = append(packages, p)
	}
}

// Rule limits the imports of the packages that match the pattern Package. A pattern names packages
// of the module by their path below internal, and other packages by their import path. A pattern
// that ends in /... also matches all packages below the path. A pattern that ends in /+ matches
// only packages below the path.
type Rule struct {
	Package string
	// Only lists the packages of the module that the matching packages may import directly. Nil
	// allows all packages that Never and NeverDirectly do not exclude.
	Only []string
	// Never lists packages that the matching packages may not import, directly or indirectly.
	Never []string
	// NeverDirectly lists packages that the matching packages may not import directly.
	NeverDirectly []string
}

// CheckImports returns one line for each import that breaks a rule, and for each package below
// internal that has no rule. If several rules match a package, only the first of them applies, so
// special rules have to come before general rules.
func CheckImports(module string, packages []Package, rules []Rule) []string {
	var problems []string
	internal := module + "/internal/"
	for _, p := range packages {
		if len(p.DepsErrors) > 0 {
			problems = append(problems, fmt.Sprintf("%s can't be loaded: %s", p.ImportPath, p.DepsErrors[0].Err))
		}
		name, ok := strings.CutPrefix(p.ImportPath, internal)
		if !ok {
			continue
		}
		i := slices.IndexFunc(rules, func(r Rule) bool { return matches(r.Package, name) })
		if i < 0 {
			problems = append(problems, fmt.Sprintf("%s has no place among the import rules: give it one in internal/testing/lint", name))
			continue
		}
		problems = append(problems, rules[i].check(internal, name, p)...)
	}
	return problems
}

func (r Rule) check(internal, name string, p Package) []string {
	var problems []string
	report := func(dependency, how string) {
		problems = append(problems, fmt.Sprintf("%s may not %s %s", name, how, dependency))
	}
	for _, path := range p.Imports {
		dependency, ours := strings.CutPrefix(path, internal)
		if ours && r.Only != nil && !matchesAny(r.Only, dependency) {
			report(dependency, "import")
		}
		if matchesAny(r.NeverDirectly, dependency) {
			report(dependency, "itself import")
		}
	}
	for _, path := range p.Deps {
		if dependency := strings.TrimPrefix(path, internal); matchesAny(r.Never, dependency) {
			report(dependency, "depend on")
		}
	}
	return problems
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, name) })
}

func matches(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == prefix || strings.HasPrefix(name, prefix+"/")
	}
	if prefix, ok := strings.CutSuffix(pattern, "+"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return name == pattern
}
