package statefulset

import "context"

// Place is where the servers of a broker run. Servers are counted from 0, and
// those there are have no gap.
type Place interface {
	// Address says where server n is, or will be.
	Address(n int) Address
	// Names are the host names and addresses under which servers are reached.
	Names() []string
	// ClientURL is what applications connect to.
	ClientURL() string
	// LinkPort is the port on which links are accepted; 0: they are not.
	LinkPort() int
	// Apply makes n servers exist, which begin with the boot state, and whatever else
	// they need. It does not wait until they run, and replaces none.
	Apply(ctx context.Context, n int, boot []byte) error
	// Servers tells of the servers that shall exist.
	Servers(ctx context.Context) ([]Server, error)
	// Replace stops server n and has a new one take its place and data.
	Replace(ctx context.Context, n int) error
}

// resolver is a Place that knows better than the names of servers where they are
// now: that a name is not known yet is remembered by name servers for a while.
type resolver interface {
	// Resolve returns where to connect for HOST:PORT of an Address.
	Resolve(hostPort string) string
}

func resolve(p Place, hostPort string) string {
	if r, ok := p.(resolver); ok {
		return r.Resolve(hostPort)
	}
	return hostPort
}

// Address is where a server is: HOST:PORT each.
type Address struct {
	// Name of the process.
	Name string
	// Control, Client and Route are its listeners.
	Control, Client, Route string
}

// Server is what its place knows of a server.
type Server struct {
	// Exists tells that there is one; it need not work.
	Exists bool
	// Outdated tells that it is not what Apply would make of it now.
	Outdated bool
	// Message says why it does not run, if its place knows.
	Message string
}
