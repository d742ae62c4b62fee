package lint_test

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/testing/lint"
)

// moduleTexts returns all comments, messages and document lines of the module.
func moduleTexts(t *testing.T) []lint.Text {
	t.Helper()
	documents, err := lint.Documents(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	texts := append(lint.Prose(moduleFiles(t)), documents...)
	if len(texts) < 1000 {
		t.Fatalf("only %d texts were found", len(texts))
	}
	return texts
}

func TestProse_UsesPlainWords(t *testing.T) { report(t, lint.CheckWords(moduleTexts(t))) }

func TestProse_UsesWhereForPlaces(t *testing.T) { report(t, lint.CheckWhere(moduleTexts(t))) }

func TestProse_FitsItsColumns(t *testing.T) {
	problems, err := lint.CheckColumns(os.DirFS(root), moduleFiles(t))
	if err != nil {
		t.Fatal(err)
	}
	report(t, problems)
}

func TestDeclarations_AreTermsOfTheField(t *testing.T) {
	report(t, lint.CheckDeclarations(moduleFiles(t)))
}

func TestTypes_MeanOneThing(t *testing.T) { report(t, lint.CheckHomonyms(moduleFiles(t))) }

func TestCheckWords_FindsWordsToAvoid(t *testing.T) {
	files := parse(t, map[string]string{"a/a.go": "package a\n\n// It begins a" + "new.\nconst x = \"no" + "body knows\"\n\n" +
		"const y = `no" + "body`\n"})
	texts := append(lint.Prose(files), lint.Text{At: "a.md:1", Kind: lint.Document, Words: "See w" + "hat is missing."},
		lint.Text{At: "a.md:2", Kind: lint.Document, Words: "Do you know w" + "hat is missing? Use `a" + "new`."})
	want := []string{
		"a.md:1: write a name in place of the clause instead of \"what" + " is\"",
		"a/a.go:3: write again instead of \"a" + "new\"",
		"a/a.go:4: write the operator, or the subject instead of \"no" + "body\"",
	}
	if diff := cmp.Diff(want, lint.CheckWords(texts)); diff != "" {
		t.Error(diff)
	}
}

func TestCheckWhere_CountsWords(t *testing.T) {
	text := strings.Repeat("word ", 998)
	for words, want := range map[string]int{text + "where": 0, text + "where where": 1, text + "`where` WHERE where": 0} {
		if got := lint.CheckWhere([]lint.Text{{Kind: lint.Document, Words: words}}); len(got) != want {
			t.Errorf("%q", got)
		}
	}
}

func TestCheckColumns_FindsLongLines(t *testing.T) {
	fixture := fstest.MapFS{
		"a.go": {
			Data: []byte(
				"package a\n\n// " + strings.Repeat(
					"x",
					138,
				) + "\n// " + strings.Repeat(
					"x",
					137,
				) + "\n\t//" + strings.Repeat(
					"x",
					136,
				) + "\n",
			),
		},
		"a.md": {Data: []byte(strings.Repeat("x", 101) + "\n" + strings.Repeat("x", 100) + "\n| " + strings.Repeat("x", 101) + "\n")},
	}
	files, err := lint.Files(fixture)
	if err != nil {
		t.Fatal(err)
	}
	got, err := lint.CheckColumns(fixture, files)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a.go:3: 141 columns; at most 140", "a.go:5: 142 columns; at most 140", "a.md:1: 101 columns; at most 100"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckDeclarations_FindsNames(t *testing.T) {
	got := lint.CheckDeclarations(parse(t, map[string]string{
		"a.go": "package a\n\ntype choi" + "ces struct{ who" + "ever int }\n\n" +
			"func f() { made" + "An" + "ew, choi" + "ces := 1, 2; _, _ = made" + "An" + "ew, choi" + "ces }\n",
	}))
	want := []string{
		"a.go:3: choi" + "ces is not a term of the field",
		"a.go:3: who" + "ever: \"who" + "ever\" is not a term of the field",
		"a.go:5: made" + "An" + "ew: \"a" + "new\" is not a term of the field",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckHomonyms_FindsTypes(t *testing.T) {
	got := lint.CheckHomonyms(parse(t, map[string]string{
		"internal/a/a.go": "package a\n\ntype journal struct{}\n\ntype Config struct{}\n",
		"internal/b/b.go": "package b\n\ntype Journal struct{}\n\ntype Config struct{}\n",
		"internal/c/c.go": "package c\n\ntype other struct{}\n",
	}))
	want := []string{"journal is a type of internal/a, internal/b: give each a name of its own, or list it in sharedTypes"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
