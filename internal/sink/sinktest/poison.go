package sinktest

import (
	"fmt"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var poisonChecks = []property{
	{"a batch with a poison event applies nothing", keepsRows, checkPoisonInBatch},
	{"the rest of a batch applies once its poison event is removed", keepsRows, checkBisection},
}

// poisonRow returns a table and a function. The function returns rows of the table. The sink
// refuses each of these rows. The result ok is false if the sink accepts every value.
func (h *harness) poisonRow() (t *schema.Table, row func(id string) string, ok bool) {
	h.Helper()
	t = valueTable(h)
	s := h.open()
	h.migrate(s, t)
	for i, v := range values() {
		if !v.refusable {
			continue
		}
		st := h.insert(t, v.row(t, i))
		err := h.try(s, st)
		h.model(t.Name).forget(t, h, fmt.Sprintf(`{"id":"%d"}`, i))
		if err != nil && fault.Of(err) == fault.Poison {
			return t, func(id string) string {
				return fmt.Sprintf(`{"id":"%s","%s":%s}`, id, v.column(t).Name, v.raw)
			}, true
		}
		h.apply(s, h.delete(t, fmt.Sprintf(`{"id":"%d"}`, i)))
	}
	return t, nil, false
}

func (m *tableModel) forget(t *schema.Table, h T, image string) {
	h.Helper()
	row := rowOf(h, t, image)
	delete(m.rows, canonicalKey(t, &row))
}

func checkPoisonInBatch(h *harness) {
	t, bad, ok := h.poisonRow()
	if !ok {
		return // the sink accepts everything
	}
	other := customers(h)
	s := h.open()
	h.migrate(s, other)
	h.apply(s, h.insert(t, `{"id":"a","col_string":"before"}`), h.insert(other, `{"id":"a","name":"before"}`))
	checkpoint := h.position()
	before, beforeOther := h.model(t.Name).clone(), h.model(other.Name).clone()
	for _, size := range []int{1, 300} {
		steps := []textChange{h.update(t, `{"id":"a","col_string":"after"}`), h.update(other, `{"id":"a","name":"after"}`)}
		for i := range size {
			steps = append(steps, h.insert(t, fmt.Sprintf(`{"id":"n%d"}`, i)), h.insert(other, fmt.Sprintf(`{"id":"n%d"}`, i)))
		}
		steps = append(steps, h.insert(t, bad("bad")), h.delete(other, `{"id":"a"}`), h.insert(t, `{"id":"z"}`))
		err := h.try(s, steps...)
		h.expectClass(err, fault.Poison)
		h.expectRows(s, t, before)
		h.expectRows(s, other, beforeOther)
		if _, ok := s.(sink.Checkpointer); ok && h.checkpoint(s) != checkpoint {
			h.Errorf("the checkpoint is %v, want %v", h.checkpoint(s), checkpoint)
		}
	}
}

func checkBisection(h *harness) {
	t, bad, ok := h.poisonRow()
	if !ok {
		return
	}
	s := h.open()
	good := []textChange{h.insert(t, `{"id":"1","col_string":"one"}`), h.insert(t, `{"id":"2","col_string":"two"}`)}
	poison := h.insert(t, bad("bad"))
	h.model(t.Name).forget(t, h, `{"id":"bad"}`)
	rest := []textChange{h.update(t, `{"id":"1","col_string":"uno"}`), h.delete(t, `{"id":"2"}`), h.insert(t, `{"id":"3"}`)}
	h.expectClass(h.try(s, append(append(append([]textChange{}, good...), poison), rest...)...), fault.Poison)
	h.apply(s, good...)
	h.expectClass(h.try(s, poison), fault.Poison)
	h.apply(s, rest...)
	h.expect(s, t)
}
