package lint

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
)

// CheckGlobals returns one line for each package-level variable that changes while the program
// runs. It also returns one line for each package-level variable of a type that exists only to be
// changed. It compares names, not types, so it does not detect a change through a pointer or a
// method.
func CheckGlobals(files []File) []string {
	var problems []string
	packages := make(map[string][]File)
	for _, f := range files {
		if !f.beside() {
			key := path.Dir(f.Path) + " " + f.AST.Name.Name
			packages[key] = append(packages[key], f)
		}
	}
	for _, members := range packages {
		globals := globalsOf(members)
		for _, f := range members {
			problems = append(problems, f.mutableGlobals()...)
			problems = append(problems, f.changes(globals)...)
		}
	}
	slices.Sort(problems)
	return problems
}

// globalsOf returns the declarations of the files' package-level variables by name.
func globalsOf(files []File) map[string]*ast.ValueSpec {
	globals := make(map[string]*ast.ValueSpec)
	for _, f := range files {
		for _, spec := range f.globals() {
			for _, name := range spec.Names {
				if name.Name != "_" {
					globals[name.Name] = spec
				}
			}
		}
	}
	return globals
}

func (f File) globals() []*ast.ValueSpec {
	var specs []*ast.ValueSpec
	for _, d := range f.AST.Decls {
		if general, ok := d.(*ast.GenDecl); ok && general.Tok == token.VAR {
			for _, s := range general.Specs {
				specs = append(specs, s.(*ast.ValueSpec))
			}
		}
	}
	return specs
}

// mutableGlobals returns one line for each package-level variable of a type that exists only to be
// changed, such as a mutex.
func (f File) mutableGlobals() []string {
	var problems []string
	for _, spec := range f.globals() {
		for _, e := range append([]ast.Expr{spec.Type}, spec.Values...) {
			if what := f.mutableType(e); what != "" {
				problems = append(problems, fmt.Sprintf("%s: the package-level variable %s is a %s, mutable state", f.At(spec),
					spec.Names[0].Name, what))
			}
		}
	}
	return problems
}

// mutableType returns the name of the mutable type that the expression e denotes or creates, or ""
// if there is none.
func (f File) mutableType(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.UnaryExpr:
		return f.mutableType(e.X)
	case *ast.StarExpr:
		return f.mutableType(e.X)
	case *ast.IndexExpr:
		return f.mutableType(e.X)
	case *ast.CompositeLit:
		return f.mutableType(e.Type)
	case *ast.CallExpr:
		if id, ok := e.Fun.(*ast.Ident); ok && (id.Name == "make" || id.Name == "new") && len(e.Args) > 0 {
			if _, ok := e.Args[0].(*ast.ChanType); ok {
				return "channel"
			}
			return f.mutableType(e.Args[0])
		}
	case *ast.ChanType:
		return "channel"
	case *ast.SelectorExpr:
		id, ok := e.X.(*ast.Ident)
		if !ok {
			return ""
		}
		types := []string{"Mutex", "RWMutex", "Map", "Once", "WaitGroup", "Cond"} // a Pool is only a cache
		if id.Name == f.imported("sync") && slices.Contains(types, e.Sel.Name) || id.Name == f.imported("sync/atomic") {
			return id.Name + "." + e.Sel.Name
		}
	}
	return ""
}

// changes returns one line for each statement that changes a package-level variable.
func (f File) changes(globals map[string]*ast.ValueSpec) []string {
	linksDriver := within(path.Dir(f.Path), "internal/drivers") && strings.HasPrefix(path.Base(f.Path), "builtin_")
	var problems []string
	changed := func(e ast.Expr) {
		id := variable(e)
		if id == nil || linksDriver {
			return
		}
		spec, ok := globals[id.Name]
		// The parser resolves a name within its file: to this declaration, to a declaration in an
		// inner scope, or to nothing if another file declares the name.
		if ok && (id.Obj == nil || id.Obj.Decl == spec) {
			problems = append(problems, fmt.Sprintf("%s: it changes the package-level variable %s", f.At(id), id.Name))
		}
	}
	ast.Inspect(f.AST, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, e := range n.Lhs {
					changed(e)
				}
			}
		case *ast.IncDecStmt:
			changed(n.X)
		case *ast.RangeStmt:
			if n.Tok == token.ASSIGN {
				changed(n.Key)
				changed(n.Value)
			}
		case *ast.UnaryExpr:
			if n.Op == token.AND {
				changed(n.X)
			}
		case *ast.CallExpr:
			if id, ok := n.Fun.(*ast.Ident); ok && id.Obj == nil && len(n.Args) > 0 && (id.Name == "delete" || id.Name == "clear" ||
				id.Name == "copy") {
				changed(n.Args[0])
			}
		}
		return true
	})
	return problems
}

// variable returns the variable that an assignment to e changes, or nil if e has no such variable.
func variable(e ast.Expr) *ast.Ident {
	switch e := e.(type) {
	case *ast.Ident:
		return e
	case *ast.SelectorExpr:
		return variable(e.X)
	case *ast.IndexExpr:
		return variable(e.X)
	case *ast.SliceExpr:
		return variable(e.X)
	case *ast.StarExpr:
		return variable(e.X)
	case *ast.ParenExpr:
		return variable(e.X)
	}
	return nil
}
