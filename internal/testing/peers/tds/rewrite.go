package tds

import (
	"fmt"
	"strings"
)

// name returns text as a quoted identifier of SQLite.
func name(text string) string { return `"` + strings.ReplaceAll(text, `"`, `""`) + `"` }

func literal(text string) string {
	if strings.Contains(text, "\x00") {
		return fmt.Sprintf("CAST(x'%x' AS TEXT)", text)
	}
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}

// object parses the name of a table at the start of tokens. It returns the table's full name and
// the number of tokens. A name without a schema is in the schema dbo, unless it names a temporary
// table.
func object(tokens []token) (string, int, error) {
	if len(tokens) == 0 || tokens[0].kind != 'q' && tokens[0].kind != 'w' {
		return "", 0, syntaxError(plain(tokens))
	}
	first := tokens[0].text
	if len(tokens) > 2 && tokens[1].is(".") {
		if strings.HasPrefix(tokens[2].text, "#") {
			return "", 0, syntaxError("a schema before a temporary table")
		}
		return strings.ToLower(first) + "." + tokens[2].text, 3, nil
	}
	if strings.HasPrefix(first, "#") {
		return first, 1, nil
	}
	return "dbo." + first, 1, nil
}

// table returns the SQLite name of the table with the given full name.
func table(object string) string {
	if strings.HasPrefix(object, "#") {
		return "temp." + name(object)
	}
	return "main." + name(object)
}

// rewriter translates T-SQL expressions and sources of rows into SQLite's SQL.
type rewriter struct{ session *engine }

// expression rewrites tokens that consist of expressions, and possibly of clauses that contain
// them.
func (w *rewriter) expression(tokens []token) (string, error) {
	var out []string
	for i := 0; i < len(tokens); {
		text, n, err := w.term(tokens[i:])
		if err != nil {
			return "", err
		}
		out = append(out, text)
		i += n
	}
	return strings.Join(out, " "), nil
}

// term rewrites the first term in tokens, and returns the number of tokens in the term.
func (w *rewriter) term(tokens []token) (string, int, error) {
	t := tokens[0]
	switch {
	case t.kind == 's':
		return literal(t.text), 1, nil
	case t.kind == 'n':
		return t.text, 1, nil
	case t.kind == '@':
		if strings.HasPrefix(t.text, "@@") {
			return w.global(t.text)
		}
		return t.text, 1, nil
	case t.is("+"):
		return "||", 1, nil // supported statements use + only to concatenate text
	case t.is("COLLATE") && len(tokens) > 1:
		return "COLLATE " + collationOf(tokens[1].text), 2, nil
	case t.is("WITH") && len(tokens) > 1 && tokens[1].is("("):
		return w.hints(tokens)
	case (t.is("FROM") || t.is("JOIN") || t.is("INTO")) && len(tokens) > 1:
		return w.source(tokens)
	case t.is("("):
		end := closing(tokens, 0)
		if end < 0 {
			return "", 0, syntaxError(plain(tokens))
		}
		inner, err := w.expression(tokens[1:end])
		return "(" + inner + ")", end + 1, err
	case t.kind == 'w' && len(tokens) > 1 && tokens[1].is("("):
		return w.call(tokens)
	case t.kind == 'q':
		return name(t.text), 1, nil
	}
	return t.text, 1, nil
}

// collationOf returns the SQLite collation that resembles a collation of SQL Server. Every
// collation of SQL Server ignores trailing blanks.
func collationOf(collation string) string {
	if strings.Contains(strings.ToUpper(collation), "_BIN2") {
		return "RTRIM"
	}
	return "NOCASE"
}

func (w *rewriter) global(variable string) (string, int, error) {
	switch strings.ToUpper(variable) {
	case "@@SPID":
		return fmt.Sprint(w.session.number), 1, nil
	case "@@TRANCOUNT":
		if w.session.open {
			return "1", 1, nil
		}
		return "0", 1, nil
	}
	return "", 0, syntaxError(variable)
}

// hints skips the table hints WITH (...). An unknown hint is an error.
func (w *rewriter) hints(tokens []token) (string, int, error) {
	end := closing(tokens, 1)
	for _, hint := range tokens[2:max(2, end)] {
		if !hint.is(",") && !hint.is("HOLDLOCK") && !hint.is("UPDLOCK") && !hint.is("TABLOCK") && !hint.is("TABLOCKX") {
			return "", 0, &Error{Number: 321, Class: 15, State: 1, Message: fmt.Sprintf("%q is not a recognized table hints option.",
				hint.text)}
		}
	}
	return "", end + 1, nil
}

// source rewrites FROM, JOIN or INTO and the source of rows after it. The source is a table, or
// VALUES with the names of its columns.
func (w *rewriter) source(tokens []token) (string, int, error) {
	word := strings.ToUpper(tokens[0].text) + " "
	text, n, err := w.rows(tokens[1:])
	return word + text, n + 1, err
}

func (w *rewriter) rows(tokens []token) (string, int, error) {
	if tokens[0].is("(") {
		return w.values(tokens)
	}
	o, n, err := object(tokens)
	if err != nil {
		return "", 0, err
	}
	return table(o), n, nil
}

// values rewrites a source of the form (VALUES (...), ...) AS S (a, b).
func (w *rewriter) values(tokens []token) (string, int, error) {
	end := closing(tokens, 0)
	if end < 0 {
		return "", 0, syntaxError(plain(tokens))
	}
	inner, err := w.expression(tokens[1:end])
	if err != nil || !tokens[1].is("VALUES") {
		return "(" + inner + ")", end + 1, err
	}
	if rows := len(splitTop(tokens[2:end], ",")); rows > 1000 {
		return "", 0, &Error{
			Number: 10738, Class: 15, State: 1,
			Message: "The number of row value expressions in the INSERT statement exceeds the maximum allowed number of 1000 row values.",
		}
	}
	rest := tokens[end+1:]
	if len(rest) < 3 || !rest[0].is("AS") || !rest[2].is("(") {
		return "", 0, syntaxError(plain(rest))
	}
	names := closing(rest, 2)
	var columns []string
	for i, c := range splitTop(rest[3:names], ",") {
		columns = append(columns, fmt.Sprintf("column%d AS %s", i+1, name(c[0].text)))
	}
	return fmt.Sprintf("(SELECT %s FROM (%s)) AS %s", strings.Join(columns, ", "), inner, name(rest[1].text)), end + 1 + names + 1, nil
}

// call rewrites a function call.
func (w *rewriter) call(tokens []token) (string, int, error) {
	end := closing(tokens, 1)
	if end < 0 {
		return "", 0, syntaxError(plain(tokens))
	}
	function := strings.ToUpper(tokens[0].text)
	inside := tokens[2:end]
	arguments := splitTop(inside, ",")
	switch function {
	case "SCHEMA_NAME":
		return "'dbo'", end + 1, nil
	case "DB_NAME":
		return literal(w.session.database.name), end + 1, nil
	case "CAST":
		as := find(inside, "AS")
		if as < 0 {
			return "", 0, syntaxError(plain(tokens))
		}
		value, err := w.expression(inside[:as])
		return fmt.Sprintf("tsql_convert(%s, %s, 0)", value, literal(plain(inside[as+1:]))), end + 1, err
	case "CONVERT", "TRY_CONVERT":
		if len(arguments) < 2 {
			return "", 0, syntaxError(plain(tokens))
		}
		value, err := w.expression(arguments[1])
		style := "0"
		if len(arguments) > 2 {
			style = plain(arguments[2])
		}
		return fmt.Sprintf("tsql_%s(%s, %s, %s)", strings.ToLower(function), value, literal(plain(arguments[0])), style), end + 1, err
	case "FORMAT":
		value, err := w.expression(arguments[0])
		return "tsql_shortest(" + value + ")", end + 1, err
	case "SWITCHOFFSET":
		value, err := w.expression(arguments[0])
		return "(" + value + ")", end + 1, err
	case "COUNT_BIG":
		inner, err := w.expression(inside)
		return "COUNT (" + inner + ")", end + 1, err
	case "REPLACE", "RTRIM", "COALESCE", "COUNT", "SUM", "EXISTS", "IN", "VALUES", "AND", "OR", "NOT",
		"WHERE", "ON", "SELECT", "WHEN", "THEN", "ELSE", "SET", "BY", "AS", "LIKE":
		inner, err := w.expression(inside)
		return tokens[0].text + " (" + inner + ")", end + 1, err
	}
	return "", 0, &Error{Number: 195, Class: 15, State: 10, Message: fmt.Sprintf("'%s' is not a recognized built-in function name.",
		tokens[0].text)}
}
