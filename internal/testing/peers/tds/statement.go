package tds

import (
	"context"
	"fmt"
	"strings"
)

// controls reports whether a statement controls the session or its transaction.
func controls(statement []token) bool {
	for _, word := range []string{"SET", "BEGIN", "COMMIT", "ROLLBACK", "IF", "EXECUTE"} {
		if statement[0].is(word) {
			return true
		}
	}
	return false
}

func (e *engine) control(ctx context.Context, statement []token) (result, error) {
	text := strings.ToUpper(plain(statement))
	switch {
	case text == "BEGIN TRANSACTION" && !e.open:
		err := e.begin(ctx)
		return result{tokens: environment(environmentBegin, e.descriptor(), []byte{0})}, err
	case text == "COMMIT TRANSACTION":
		return result{tokens: environment(environmentCommit, []byte{0}, e.descriptor())}, e.commit(ctx)
	case text == "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION", text == "ROLLBACK TRANSACTION" && e.open:
		return result{tokens: environment(environmentRollback, []byte{0}, e.descriptor())}, e.rollback(ctx)
	case text == "EXECUTE SYS . SP_FLUSH_LOG":
		return result{}, nil
	case strings.HasPrefix(text, "SET IDENTITY_INSERT "):
		o, _, err := object(statement[2:])
		if err != nil {
			return result{}, err
		}
		d, err := e.definition(ctx, o)
		if err == nil && d.identity() < 0 {
			err = &Error{Number: 8106, Class: 16, State: 1, Message: "The table does not have the identity property."}
		}
		return result{}, err
	case settings(statement):
		return result{}, nil
	}
	return result{}, syntaxError(plain(statement))
}

// settings reports whether the statement sets known session options.
func settings(statement []token) bool {
	known := map[string]bool{
		"XACT_ABORT": true, "ANSI_NULLS": true, "ANSI_PADDING": true, "ANSI_WARNINGS": true, "ARITHABORT": true,
		"CONCAT_NULL_YIELDS_NULL": true,
		"QUOTED_IDENTIFIER":       true, "NUMERIC_ROUNDABORT": true, "IMPLICIT_TRANSACTIONS": true, "NOCOUNT": true,
	}
	if !statement[0].is("SET") {
		return false
	}
	if text := strings.ToUpper(plain(statement[1:])); strings.HasPrefix(text, "LOCK_TIMEOUT ") ||
		text == "TRANSACTION ISOLATION LEVEL READ COMMITTED" {
		return true
	}
	last := statement[len(statement)-1]
	if !last.is("ON") && !last.is("OFF") {
		return false
	}
	for _, option := range splitTop(statement[1:len(statement)-1], ",") {
		if len(option) != 1 || !known[strings.ToUpper(option[0].text)] {
			return false
		}
	}
	return true
}

// statement executes a statement that is not a control statement.
func (e *engine) statement(ctx context.Context, statement []token, arguments map[string]any) (result, error) {
	w := &rewriter{session: e}
	switch {
	case begins(statement, "SELECT"):
		return e.selects(ctx, w, statement, arguments)
	case begins(statement, "MERGE"):
		return e.merge(ctx, w, statement, arguments)
	case begins(statement, "INSERT", "INTO"):
		return e.run(ctx, arguments, func() (string, error) { return w.expression(statement) })
	case begins(statement, "UPDATE"):
		return e.run(ctx, arguments, func() (string, error) { return w.update(statement) })
	case begins(statement, "DELETE"):
		return e.run(ctx, arguments, func() (string, error) { return w.remove(statement) })
	case begins(statement, "TRUNCATE", "TABLE"):
		o, n, err := object(statement[2:])
		if err != nil || n+2 != len(statement) {
			return result{}, syntaxError(plain(statement))
		}
		return result{}, e.do(ctx, "DELETE FROM "+table(o))
	}
	return result{}, e.define(ctx, statement)
}

func (e *engine) run(ctx context.Context, arguments map[string]any, rewrite func() (string, error)) (result, error) {
	text, err := rewrite()
	if err != nil {
		return result{}, err
	}
	n, err := e.change(ctx, text, arguments)
	return result{rows: n}, err
}

// joined holds the rewritten parts of the clauses FROM table AS T INNER JOIN source ON condition
// WHERE condition.
type joined struct {
	target    string // the SQLite name of the table
	source    string // "" if there is no join
	condition string
}

// joined rewrites the part of UPDATE T SET ... or DELETE T that starts with FROM.
func (w *rewriter) joined(tokens []token) (joined, error) {
	o, n, err := object(tokens[1:])
	if err != nil {
		return joined{}, err
	}
	j := joined{target: table(o)}
	rest := tokens[1+n:]
	if len(rest) < 2 || !rest[0].is("AS") || !rest[1].is("T") {
		return j, syntaxError(plain(rest))
	}
	rest = rest[2:]
	if begins(rest, "WITH", "(") {
		_, n, err := w.hints(rest)
		if err != nil {
			return j, err
		}
		rest = rest[n:]
	}
	var conditions []string
	add := func(tokens []token) error {
		c, err := w.expression(tokens)
		conditions = append(conditions, "("+c+")")
		return err
	}
	where := find(rest, "WHERE")
	if where >= 0 {
		if err := add(rest[where+1:]); err != nil {
			return j, err
		}
		rest = rest[:where]
	}
	if len(rest) > 0 {
		on := find(rest, "ON")
		if !begins(rest, "INNER", "JOIN") || on < 0 {
			return j, syntaxError(plain(rest))
		}
		if j.source, err = w.rest(rest[2:on]); err != nil {
			return j, err
		}
		if err := add(rest[on+1:]); err != nil {
			return j, err
		}
	}
	j.condition = strings.Join(conditions, " AND ")
	return j, nil
}

// rest rewrites a source of rows and the alias after it.
func (w *rewriter) rest(tokens []token) (string, error) {
	text, n, err := w.rows(tokens)
	if err != nil {
		return "", err
	}
	alias, err := w.expression(tokens[n:])
	return text + " " + alias, err
}

// update rewrites statements of the forms UPDATE table SET ... WHERE ... and UPDATE T SET ... FROM
// ....
func (w *rewriter) update(tokens []token) (string, error) {
	from := find(tokens, "FROM")
	set := find(tokens, "SET")
	if set < 0 {
		return "", syntaxError(plain(tokens))
	}
	if from < 0 {
		o, n, err := object(tokens[1:])
		if err != nil || 1+n != set {
			return "", syntaxError(plain(tokens))
		}
		rest, err := w.expression(tokens[set:])
		return "UPDATE " + table(o) + " " + rest, err
	}
	if !tokens[1].is("T") || set != 2 {
		return "", syntaxError(plain(tokens))
	}
	assignments, err := w.expression(tokens[set:from])
	if err != nil {
		return "", err
	}
	j, err := w.joined(tokens[from:])
	return "UPDATE " + j.target + " AS T " + assignments + " FROM " + j.source + " WHERE " + j.condition, err
}

// remove rewrites a statement of the form DELETE T FROM ....
func (w *rewriter) remove(tokens []token) (string, error) {
	if len(tokens) < 5 || !tokens[1].is("T") || !tokens[2].is("FROM") {
		return "", syntaxError(plain(tokens))
	}
	j, err := w.joined(tokens[2:])
	if j.source == "" {
		return "DELETE FROM " + j.target + " AS T WHERE " + j.condition, err
	}
	return "DELETE FROM " + j.target + " AS T WHERE EXISTS (SELECT 1 FROM " + j.source + " WHERE " + j.condition + ")", err
}

// merge executes a statement of the form MERGE INTO table WITH (HOLDLOCK) AS T USING source ON
// condition WHEN MATCHED ... THEN UPDATE SET ... WHEN NOT MATCHED BY TARGET THEN INSERT (...)
// VALUES (...).
func (e *engine) merge(ctx context.Context, w *rewriter, tokens []token, arguments map[string]any) (result, error) {
	o, n, err := object(tokens[2:])
	if err != nil || !begins(tokens[2+n:], "WITH", "(", "HOLDLOCK", ")", "AS", "T", "USING") {
		return result{}, syntaxError(plain(tokens))
	}
	using := 2 + n + 7
	on := using + find(tokens[using:], "ON")
	source, err := w.rest(tokens[using:on])
	if err != nil {
		return result{}, err
	}
	end := len(tokens)
	missing := find(tokens, "WHEN", "NOT", "MATCHED", "BY", "TARGET", "THEN", "INSERT")
	matched := find(tokens, "WHEN", "MATCHED")
	if matched < 0 {
		matched = missing
	}
	if on < using || missing < 0 {
		return result{}, syntaxError(plain(tokens))
	}
	condition, err := w.expression(tokens[on+1 : matched])
	if err != nil {
		return result{}, err
	}
	var all result
	if matched < missing {
		if all, err = e.mergeMatched(ctx, w, table(o), source, condition, tokens[matched+2:missing], arguments); err != nil {
			return all, err
		}
	}
	values := missing + find(tokens[missing:], "VALUES")
	columns, err := w.expression(tokens[missing+7 : values])
	if err != nil {
		return all, err
	}
	expressions, err := w.expression(tokens[values+2 : end-1])
	if err != nil {
		return all, err
	}
	inserted, err := e.change(ctx, fmt.Sprintf("INSERT INTO %s %s SELECT %s FROM %s WHERE NOT EXISTS (SELECT 1 FROM %s AS T WHERE %s)",
		table(o), columns, expressions, source, table(o), condition), arguments)
	all.rows += inserted
	return all, err
}

// mergeMatched updates the rows that a MERGE matches. If the MERGE matches a row twice,
// mergeMatched returns an error and updates nothing.
func (e *engine) mergeMatched(ctx context.Context, w *rewriter, target, source, condition string, tokens []token,
	arguments map[string]any,
) (result, error) {
	then := find(tokens, "THEN", "UPDATE", "SET")
	if then < 0 {
		return result{}, syntaxError(plain(tokens))
	}
	if then > 0 {
		further, err := w.expression(tokens[1:then])
		if err != nil || !tokens[0].is("AND") {
			return result{}, syntaxError(plain(tokens))
		}
		condition = "(" + condition + ") AND (" + further + ")"
	}
	assignments, err := w.expression(tokens[then+2:])
	if err != nil {
		return result{}, err
	}
	twice := fmt.Sprintf("SELECT 1 FROM %s AS T INNER JOIN %s ON %s GROUP BY T.rowid HAVING COUNT(*) > 1 LIMIT 1", target, source,
		condition)
	found, err := e.ask(ctx, twice, named(twice, arguments)...)
	if err != nil {
		return result{}, err
	}
	if len(found) > 0 {
		return result{}, &Error{
			Number: 8672, Class: 16, State: 1,
			Message: "The MERGE statement attempted to UPDATE or DELETE the same row more than once.",
		}
	}
	n, err := e.change(ctx, fmt.Sprintf("UPDATE %s AS T %s FROM %s WHERE %s", target, assignments, source, condition), arguments)
	return result{rows: n}, err
}
