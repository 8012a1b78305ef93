// The bare address leads on: to the dashboard with a session, to the sign-in page without.

import { current } from "/console/session.js";

location.replace(current() ? "/dashboard" : "/login");
