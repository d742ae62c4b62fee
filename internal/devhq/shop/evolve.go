package shop

// evolution is one change of the schema.
type evolution struct {
	description string
	table       string
	column      generatedColumn // the added or widened column; the zero column for a new table
	layout      *rowLayout      // the layout of a new table; nil otherwise
}

// evolutions returns all evolutions of the schema, in the order in which they happen. Added
// columns are nullable, because existing rows have no values in them.
func evolutions() []evolution {
	inspection := newRowLayout("inspection", "Inspection", definition{primaryKey: []string{"id"}, standalone: true}, inspectionColumns())
	d := definition{primaryKey: []string{"companyId", "id"}, standalone: true}
	loaner := newRowLayout("loaner_car", "LoanerCar", d, loanerColumns())
	add := func(table string, c generatedColumn) evolution {
		return evolution{description: "column " + table + "." + c.name + " added (" + c.typ.String() + ")", table: table, column: c}
	}
	widen := func(table string, c generatedColumn) evolution {
		return evolution{description: "column " + table + "." + c.name + " widened to " + c.typ.String(), table: table, column: c}
	}
	create := func(l *rowLayout) evolution {
		return evolution{description: "table " + l.table + " added", table: l.table, layout: l}
	}
	return []evolution{
		add(orderTable, integer("warrantyMonths", between(0, 60)).null(30)),
		widen("vehicle", number("odometer", decimal(0, 400_000, 1)).null(5)),
		create(inspection),
		add("customer", object("consent", settings).null(20)),
		widen("part", number("quantity", decimal(0.25, 8, 2))),
		add("vehicle", enum("drivetrain", "FWD", "RWD", "AWD", "4x4").null(10)),
		widen("vehicle", text("odometer", mileage).null(5)),
		create(loaner),
		add("message", date("scheduledDate", around(0, 14)).null(40)),
		widen("inventory_part", text("weight", pattern("#.## kg"))),
		add("inspection", array("photos", "object", list(2, photo)).null(20)),
		add("payment", number("surcharge", precise(0, 9)).null(50)),
		add("labor", boolean("billable", 90).null(10)),
	}
}

func inspectionColumns() []generatedColumn {
	return common(
		text("title", oneOf(works...)),
		enum("result", "Pass", "Attention", "Fail", "NotChecked"),
		integer("points", between(0, 100)),
		number("treadDepth", decimal(0, 10, 1)).null(20),
		boolean("approved", 50).null(10),
		date("inspectedDate", around(3, 0)),
		object("findings", settings),
		array("measurements", "number", list(5, decimal(0, 20, 2))),
		text("note", remark).null(40),
	)
}

func loanerColumns() []generatedColumn {
	return common(
		text("plate", pattern("@@@ ###")),
		text("model", oneOf(models...)),
		enum("state", "Available", "Lent", "Repair"),
		integer("odometer", between(0, 200_000)),
		date("dueDate", around(0, 20)).null(40),
	)
}

// mileage generates an odometer reading as people write it.
func mileage(g *generator, dst []byte) []byte {
	return quoted(dst, string(decimal(0, 400_000, 1)(g, nil))+pick(g, []string{"", " mi", " km", " Meilen (geschätzt)"}))
}

// evolve applies the next evolution to the model and returns it. If no evolution is left, it
// returns nil.
func (m *model) evolve() *evolution {
	all := evolutions()
	if m.evolved == len(all) {
		return nil
	}
	e := &all[m.evolved]
	m.evolved++
	if e.layout != nil {
		m.addTable(e.layout)
		return e
	}
	t := m.byName[e.table]
	t.layouts = append(t.layouts, t.latest().with(e.column))
	return e
}

// show writes a few rows of the evolved table in its new layout, with values in the new column. This
// lets clients see the evolution at once.
func (st *step) show(e *evolution) {
	t := st.table(e.table)
	if t.latest().standalone {
		for range 3 {
			st.fill(t)
		}
	}
	for range 5 {
		r, ok := st.any(e.table)
		if !ok {
			return
		}
		if e.layout == nil {
			st.update(r, columnValue{e.column.name, e.column.make(st.generator, nil)})
		} else {
			st.edit(r, 4)
		}
	}
}
