package shop

// action is something that happens in a shop, and how often in comparison with
// the others. It may find nothing to do.
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

// work does one step: one action that changes something.
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

// clerk makes one of the users act, now and then the machinery itself, and
// returns the user's id.
func (st *step) clerk() string {
	users := st.table("user").rows
	key := users[st.IntN(len(users))].key
	if st.percent(80) {
		st.user = key
	}
	return key
}

// mostCustomers is how many customers the shop grows to.
func (m *model) mostCustomers() int { return 2*m.customers + 20 }

// newCustomer inserts a customer of one location with a vehicle or two.
func (st *step) newCustomer(location row) row {
	st.at(location)
	if st.percent(15) {
		st.location = "" // a customer of the whole company
	}
	key := st.insert("customer", nothing("lastVisitDate"))
	for range 1 + st.IntN(2) {
		st.newVehicle(st.find("customer", key))
	}
	return st.find("customer", key)
}

func (st *step) newVehicle(customer row) string {
	st.at(customer)
	key := st.insert("vehicle", str("customerId", customer.key()))
	customer = st.find("customer", customer.key())
	st.update(customer, num("vehicleCount", customer.int("vehicleCount")+1))
	return key
}

// someCustomer returns a customer, a new one now and then while the shop has
// room for more, and the location that deals with it.
func (st *step) someCustomer() (customer, location row) {
	if len(st.table("customer").rows) < st.m.mostCustomers() && st.percent(10) {
		location, _ = st.any("location")
		return st.newCustomer(location), location
	}
	customer, _ = st.any("customer")
	return customer, st.locationOf(customer)
}

// locationOf returns a row's location, or any of its company's where it has none.
func (st *step) locationOf(r row) row {
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

// book makes an appointment and confirms it by a message.
func (st *step) book() {
	if len(st.table("appointment").rows) > st.m.customers+10 {
		return
	}
	st.clerk()
	customer, location := st.someCustomer()
	vehicle := ""
	if keys := st.below("vehicle", customer.key()); len(keys) > 0 {
		vehicle = pick(st.pen, keys)
	}
	st.at(location)
	st.insert("appointment", str("customerId", customer.key()), optional("vehicleId", vehicle), raw("status", `"Booked"`))
	st.send(customer.key(), "", "Sent")
}

// send inserts a message to a customer.
func (st *step) send(customer, order, status string) {
	sent := st.when("sentDate")
	if status == "Draft" {
		sent = nothing("sentDate")
	}
	st.insert("message", str("customerId", customer), optional("orderId", order), str("status", status), sent, nothing("readDate"))
}

// reschedule moves an appointment: it is deleted and inserted again under the
// same id, or updated.
func (st *step) reschedule() {
	a, ok := st.any("appointment")
	if !ok {
		return
	}
	st.clerk()
	l := st.table("appointment").latest()
	start := value{"startDate", st.value(nil, &l.columns[l.slot("startDate")])}
	count := num("rescheduled", a.int("rescheduled")+1)
	if st.percent(50) {
		st.update(a, start, count)
		return
	}
	image, _ := a.rewrite(nil, st.assign(l, []value{start, count}))
	st.delete(a)
	st.reinsert(a.table, image)
}

// chat goes on with messages: a new one, or the state of an old one.
func (st *step) chat() {
	msg, ok := st.any("message")
	if !ok || st.percent(40) && len(st.table("message").rows) < 6*st.m.customers+20 {
		c, _ := st.any("customer")
		st.at(c)
		st.send(c.key(), "", pick(st.pen, []string{"Draft", "Queued", "Sent"}))
		return
	}
	switch msg.text("status") {
	case "Draft":
		st.update(msg, raw("status", `"Queued"`), value{"body", remark(st.pen, nil)})
	case "Queued":
		st.update(msg, raw("status", `"Sent"`), st.when("sentDate"))
	case "Sent":
		st.update(msg, raw("status", `"Delivered"`))
	default:
		st.update(msg, raw("status", `"Read"`), st.when("readDate"))
	}
}

// discardDrafts deletes messages that were never sent, and read ones where
// there are too many.
func (st *step) discardDrafts() {
	t := st.table("message")
	crowded := len(t.rows) > 4*st.m.customers+10
	for range 8 {
		msg, ok := st.any("message")
		if !ok {
			return
		}
		if s := msg.text("status"); s == "Draft" || crowded && (s == "Read" || s == "Sent") {
			st.delete(msg)
		}
	}
}

func (st *step) editCustomer() {
	st.clerk()
	c, _ := st.any("customer")
	st.edit(c, 1+st.IntN(5))
	if keys := st.below("vehicle", c.key()); len(keys) > 0 && st.percent(40) {
		st.edit(st.find("vehicle", pick(st.pen, keys)), 1+st.IntN(4))
	}
}

// editAnything changes a few columns of rows of any one table.
func (st *step) editAnything() {
	t := pick(st.pen, st.m.tables)
	for range 1 + st.IntN(3) {
		if len(t.rows) > 0 {
			st.edit(st.read(t, st.skewed(len(t.rows))), 1+st.IntN(6))
		}
	}
}

// routine goes on in the tables whose rows come and go by themselves: those
// that evolutions brought.
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

// fill inserts a row into a table that the model knows nothing about, one that
// an evolution brought.
func (st *step) fill(t *table) {
	location, _ := st.any("location")
	st.at(location)
	st.insert(t.name())
}

// importCustomers adds several customers in one go, as an import does.
func (st *step) importCustomers() {
	if len(st.table("customer").rows) > st.m.mostCustomers()-10 {
		return
	}
	location, _ := st.any("location")
	st.at(location)
	st.imported = true
	for range 2 + st.IntN(8) {
		st.insert("customer", nothing("lastVisitDate"))
	}
}

// tidy keeps the shop at its size: it deletes the oldest closed order with all
// that belongs to it, old purchase orders, and customers without anything.
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

// removeCustomer deletes a customer who never had an order, with the vehicles.
func (st *step) removeCustomer() {
	c, _ := st.any("customer")
	if c.int("orderCount") > 0 {
		return
	}
	for _, key := range st.below("vehicle", c.key()) {
		st.delete(st.find("vehicle", key))
	}
	st.delete(st.find("customer", c.key()))
}

// removeOrder deletes an order and all that belongs to it.
func (st *step) removeOrder(key string) {
	for _, name := range []string{"payment", "time_entry", "part", "labor", "service"} {
		for _, child := range st.below(name, key) {
			st.delete(st.find(name, child))
		}
	}
	st.delete(st.find(orderTable, key))
}
