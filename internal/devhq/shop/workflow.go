package shop

// action is a business action with its relative frequency. An action may find nothing to do.
type action struct {
	weight int
	do     func(*step)
}

func actions() []action {
	return []action{
		{6, (*step).book},
		{8, (*step).arrive},
		{40, (*step).advanceOrder},
		{25, (*step).takeFromStock},
		{3, (*step).receiveDelivery},
		{3, (*step).orderParts},
		{2, (*step).recount},
		{3, (*step).reschedule},
		{10, (*step).chat},
		{3, (*step).discardDrafts},
		{6, (*step).editCustomer},
		{5, (*step).editAnything},
		{5, (*step).routine},
		{1, (*step).importCustomers},
		{8, (*step).tidy},
	}
}

// work performs random actions until one of them changes a row.
func (st *step) work(all []action) {
	total := 0
	for _, a := range all {
		total += a.weight
	}
	before := st.m.seq
	for st.m.seq == before {
		n := st.IntN(total)
		for _, a := range all {
			if n -= a.weight; n < 0 {
				a.do(st)
				break
			}
		}
	}
}

// clerk picks a random user and returns the id of that user. In 80% of the calls, the changes that
// follow are attributed to this user. Otherwise, they are attributed to no user, like changes by
// the shop's software.
func (st *step) clerk() string {
	users := st.table("user").rows
	key := users[st.IntN(len(users))].key
	if st.percent(80) {
		st.user = key
	}
	return key
}

// mostCustomers returns the number of customers up to which the shop grows.
func (m *model) mostCustomers() int { return 2*m.customers + 20 }

// newCustomer inserts a customer of the given location, with one or two vehicles.
func (st *step) newCustomer(location cutRow) cutRow {
	st.actAt(location)
	if st.percent(15) {
		st.location = "" // a customer of the whole company
	}
	key := st.insert("customer", nullIn("lastVisitDate"))
	for range 1 + st.IntN(2) {
		st.newVehicle(st.find("customer", key))
	}
	return st.find("customer", key)
}

func (st *step) newVehicle(customer cutRow) string {
	st.actAt(customer)
	key := st.insert("vehicle", str("customerId", customer.key()))
	customer = st.find("customer", customer.key())
	st.update(customer, num("vehicleCount", customer.int("vehicleCount")+1))
	return key
}

// someCustomer returns a random customer and the location in charge. As long as the shop has fewer
// than mostCustomers customers, it sometimes adds a new customer instead.
func (st *step) someCustomer() (customer, location cutRow) {
	if len(st.table("customer").rows) < st.m.mostCustomers() && st.percent(10) {
		location, _ = st.any("location")
		return st.newCustomer(location), location
	}
	customer, _ = st.any("customer")
	return customer, st.locationOf(customer)
}

// locationOf returns the location of a row. If the row has none, locationOf returns a random
// location of the same company.
func (st *step) locationOf(r cutRow) cutRow {
	if id := r.text("locationId"); id != "" {
		return st.find("location", id)
	}
	company := r.text("companyId")
	for {
		if l, _ := st.any("location"); l.text("companyId") == company {
			return l
		}
	}
}

// book inserts an appointment, and a message that confirms it.
func (st *step) book() {
	if len(st.table("appointment").rows) > st.m.customers+10 {
		return
	}
	st.clerk()
	customer, location := st.someCustomer()
	vehicle := ""
	if keys := st.childKeys("vehicle", customer.key()); len(keys) > 0 {
		vehicle = pick(st.generator, keys)
	}
	st.actAt(location)
	st.insert("appointment", str("customerId", customer.key()), optional("vehicleId", vehicle), raw("status", `"Booked"`))
	st.send(customer.key(), "", "Sent")
}

// send inserts a message to a customer.
func (st *step) send(customer, order, status string) {
	sent := st.nowIn("sentDate")
	if status == "Draft" {
		sent = nullIn("sentDate")
	}
	st.insert("message", str("customerId", customer), optional("orderId", order), str("status", status), sent, nullIn("readDate"))
}

// reschedule moves an appointment to another time. It either updates the row, or deletes the row
// and inserts it again with the same id.
func (st *step) reschedule() {
	a, ok := st.any("appointment")
	if !ok {
		return
	}
	st.clerk()
	l := st.table("appointment").latest()
	start := columnValue{"startDate", st.value(nil, &l.columns[l.slot("startDate")])}
	count := num("rescheduled", a.int("rescheduled")+1)
	if st.percent(50) {
		st.update(a, start, count)
		return
	}
	image, _ := a.rewrite(nil, st.assign(l, []columnValue{start, count}))
	st.delete(a)
	st.reinsert(a.table, image)
}

// chat inserts a new message, or advances the status of an existing message.
func (st *step) chat() {
	msg, ok := st.any("message")
	if !ok || st.percent(40) && len(st.table("message").rows) < 6*st.m.customers+20 {
		c, _ := st.any("customer")
		st.actAt(c)
		st.send(c.key(), "", pick(st.generator, []string{"Draft", "Queued", "Sent"}))
		return
	}
	switch msg.text("status") {
	case "Draft":
		st.update(msg, raw("status", `"Queued"`), columnValue{"body", remark(st.generator, nil)})
	case "Queued":
		st.update(msg, raw("status", `"Sent"`), st.nowIn("sentDate"))
	case "Sent":
		st.update(msg, raw("status", `"Delivered"`))
	default:
		st.update(msg, raw("status", `"Read"`), st.nowIn("readDate"))
	}
}

// discardDrafts deletes some drafts. If there are too many messages, it also deletes some sent and
// read messages.
func (st *step) discardDrafts() {
	t := st.table("message")
	tooMany := len(t.rows) > 4*st.m.customers+10
	for range 8 {
		msg, ok := st.any("message")
		if !ok {
			return
		}
		if s := msg.text("status"); s == "Draft" || tooMany && (s == "Read" || s == "Sent") {
			st.delete(msg)
		}
	}
}

func (st *step) editCustomer() {
	st.clerk()
	c, _ := st.any("customer")
	st.edit(c, 1+st.IntN(5))
	if keys := st.childKeys("vehicle", c.key()); len(keys) > 0 && st.percent(40) {
		st.edit(st.find("vehicle", pick(st.generator, keys)), 1+st.IntN(4))
	}
}

// editAnything edits a few columns in a few rows of a random table.
func (st *step) editAnything() {
	t := pick(st.generator, st.m.tables)
	for range 1 + st.IntN(3) {
		if len(t.rows) > 0 {
			st.edit(st.read(t, st.skewed(len(t.rows))), 1+st.IntN(6))
		}
	}
}

// routine inserts and deletes rows of standalone tables. Such tables are created by evolutions.
func (st *step) routine() {
	for _, t := range st.m.tables {
		if !t.latest().standalone {
			continue
		}
		st.clerk()
		most := 10 + st.m.customers
		switch n := len(t.rows); {
		case n < most && st.percent(60):
			st.fill(t)
		case n > most/2 || n > 0 && st.percent(40):
			st.delete(st.read(t, st.IntN(n)))
		}
	}
}

// fill inserts a generated row into a standalone table.
func (st *step) fill(t *tableRows) {
	location, _ := st.any("location")
	st.actAt(location)
	st.insert(t.name())
}

// importCustomers inserts several customers in one step, marked as imported.
func (st *step) importCustomers() {
	if len(st.table("customer").rows) > st.m.mostCustomers()-10 {
		return
	}
	location, _ := st.any("location")
	st.actAt(location)
	st.imported = true
	for range 2 + st.IntN(8) {
		st.insert("customer", nullIn("lastVisitDate"))
	}
}

// tidy limits the size of the shop. It deletes purchase orders, customers without orders, and the
// oldest closed order with all rows that belong to that order.
func (st *step) tidy() {
	if len(st.m.closed) > 2*st.m.customers {
		st.removeOrder(st.m.closed[0])
	}
	if t := st.table("purchase_order"); len(t.rows) > st.m.customers/4+10 {
		st.delete(st.read(t, st.IntN(len(t.rows))))
	}
	if t := st.table("customer"); len(t.rows) > st.m.mostCustomers()-10 {
		st.removeCustomer()
	}
}

// removeCustomer picks a random customer. If the customer never had an order, removeCustomer
// deletes the customer and the customer's vehicles.
func (st *step) removeCustomer() {
	c, _ := st.any("customer")
	if c.int("orderCount") > 0 {
		return
	}
	for _, key := range st.childKeys("vehicle", c.key()) {
		st.delete(st.find("vehicle", key))
	}
	st.delete(st.find("customer", c.key()))
}

// removeOrder deletes an order and all rows that belong to it.
func (st *step) removeOrder(key string) {
	for _, name := range []string{"payment", "time_entry", "part", "labor", "service"} {
		for _, child := range st.childKeys(name, key) {
			st.delete(st.find(name, child))
		}
	}
	st.delete(st.find(orderTable, key))
}
